//! Landlock and seccomp for the calling thread. Both are inherited by the threads that it starts, and neither can be lifted.

use std::collections::BTreeMap;
use std::error::Error;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use tracing::debug;

/// Denies every access that the kernel's Landlock knows. Returns whether it knows any.
pub(super) fn landlock() -> bool {
    deny_access().unwrap_or_else(|error| {
        debug!(error, "no Landlock");
        false
    })
}

/// Denies all system calls but the permitted ones, and with them [`landlock`]; `output` is the one descriptor, beside standard error, that the thread
/// may write to. Returns whether the kernel does so.
pub(super) fn seccomp(output: Option<i32>) -> bool {
    filter_calls(output).inspect_err(|error| debug!(error, "no seccomp")).is_ok()
}

fn deny_access() -> Result<bool, Box<dyn Error>> {
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    Ok(rules.create()?.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

fn filter_calls(output: Option<i32>) -> Result<(), Box<dyn Error>> {
    // To the thread the kernel is one that has no other calls: libraries know how to do without.
    let refused = SeccompAction::Errno(libc::ENOSYS as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(permitted(output)?, refused, SeccompAction::Allow, arch)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

/// The permitted system calls, each with the arguments that it may have; none means any.
fn permitted(output: Option<i32>) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, Box<dyn Error>> {
    let mut calls: BTreeMap<c_long, Vec<SeccompRule>> = ANY_ARGUMENTS.iter().map(|call| (*call, Vec::new())).collect();
    // Neither executable memory nor files in memory.
    let not_executable = masked(2, libc::PROT_EXEC, 0)?;
    calls.insert(libc::SYS_mprotect, vec![rule(vec![not_executable.clone()])?]);
    let anonymous = masked(3, libc::MAP_ANONYMOUS, libc::MAP_ANONYMOUS)?;
    calls.insert(libc::SYS_mmap, vec![rule(vec![not_executable, anonymous])?]);
    // Threads, not processes. clone3, whose flags a filter cannot read, is refused: libraries then use clone.
    let thread = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    calls.insert(libc::SYS_clone, vec![rule(vec![masked(0, thread, thread)?])?]);
    calls.insert(libc::SYS_prctl, vec![rule(vec![equal(0, libc::PR_SET_NAME)?])?]);
    // abort()
    let own = i32::try_from(std::process::id())?;
    calls.insert(libc::SYS_tgkill, vec![rule(vec![equal(0, own)?, equal(2, libc::SIGABRT)?])?]);
    let to = |descriptor| Ok::<_, Box<dyn Error>>(rule(vec![equal(0, descriptor)?])?);
    let log = libc::STDERR_FILENO;
    let (mut write, mut writev) = (vec![to(log)?], vec![to(log)?]);
    if let Some(output) = output {
        write.push(to(output)?);
        writev.push(to(output)?);
        calls.insert(libc::SYS_lseek, vec![to(output)?]);
        calls.insert(libc::SYS_close, vec![to(output)?]);
    }
    calls.insert(libc::SYS_write, write);
    calls.insert(libc::SYS_writev, writev);
    Ok(calls)
}

fn rule(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(conditions)
}

/// The argument `index` has this value. The kernel reads no more than 32 bits of all arguments that are compared here.
fn equal(index: u8, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value as u64)
}

/// The argument `index` has `value` in the bits of `mask`.
fn masked(index: u8, mask: i32, value: i32) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask as u64), value as u64)
}

/// The newest version of Landlock whose restrictions are asked for; older kernels enforce those that they know.
const NEWEST: ABI = ABI::V6;

/// Memory, synchronisation, time, and what the C library needs to start and end threads.
const ANY_ARGUMENTS: [c_long; 28] = [
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_sysinfo,
    libc::SYS_times,
];
