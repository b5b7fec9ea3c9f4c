//! What a decoder that a stream has taken over would try, in a sandboxed thread: each attempt is refused.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::ptr;

use super::*;

/// The number of all attempts.
const ATTEMPTS: usize = 29;

/// Whether the kernel looks at a call at all; with arguments that it accepts, it carries it out.
fn raw(call: libc::c_long, arguments: [i64; 6]) -> bool {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: calls that touch no memory of this process, or are given none.
    let result = unsafe { libc::syscall(call, a, b, c, d, e, f) };
    result != -1 || io::Error::last_os_error().raw_os_error() != Some(libc::ENOSYS)
}

/// All attempts; returns the names of those that succeed. `held` is a connection that the program has open.
fn attempts(server: std::net::SocketAddr, held: &TcpStream, target: std::path::PathBuf) -> Vec<&'static str> {
    let own = i64::from(std::process::id());
    let fd = i64::from(held.as_raw_fd());
    let text = c"x";
    let at = text.as_ptr() as i64;
    let page = 4096;
    let executable = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    let private = i64::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let map = |protection: i64, flags: i64, file: i64| raw(libc::SYS_mmap, [0, page, protection, flags, file, 0]);
    // SAFETY: an anonymous mapping, which is never accessed.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), page as usize, libc::PROT_READ, private as i32, -1, 0) } as i64;
    assert_ne!(mapped, -1, "memory without code is permitted");
    // SAFETY: the child, if there is one, ends at once.
    let forked = unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(0);
        }
        child > 0
    };
    let results: [(_, bool); ATTEMPTS] = [
        ("read a file", File::open("/etc/passwd").is_ok()),
        ("read a directory", std::fs::read_dir("/").is_ok()),
        ("create a file", File::create(&target).is_ok()),
        ("remove a file", std::fs::remove_file(&target).is_ok()),
        ("connect by TCP", TcpStream::connect(server).is_ok()),
        ("listen", TcpListener::bind("127.0.0.1:0").is_ok()),
        ("make a UDP socket", UdpSocket::bind("127.0.0.1:0").is_ok()),
        ("make a pair of sockets", std::os::unix::net::UnixStream::pair().is_ok()),
        ("run a program", Command::new("true").status().is_ok()),
        ("fork", forked),
        ("replace the program", raw(libc::SYS_execve, [0; 6])),
        ("write to a connection", raw(libc::SYS_write, [fd, at, 1, 0, 0, 0])),
        ("send on a connection", raw(libc::SYS_sendto, [fd, at, 1, 0, 0, 0])),
        ("read from a connection", raw(libc::SYS_recvfrom, [fd, 0, 0, i64::from(libc::MSG_DONTWAIT), 0, 0])),
        ("duplicate a connection", raw(libc::SYS_dup, [fd, 0, 0, 0, 0, 0])),
        ("control a connection", raw(libc::SYS_fcntl, [fd, i64::from(libc::F_GETFL), 0, 0, 0, 0])),
        ("close a connection", raw(libc::SYS_close, [fd, 0, 0, 0, 0, 0])),
        ("signal", raw(libc::SYS_kill, [own, 0, 0, 0, 0, 0])),
        ("signal a thread", raw(libc::SYS_tgkill, [own, own, 0, 0, 0, 0])),
        ("trace a process", raw(libc::SYS_ptrace, [libc::PTRACE_PEEKDATA as i64, own, 0, 0, 0, 0])),
        ("read another process", raw(libc::SYS_process_vm_readv, [own, 0, 0, 0, 0, 0])),
        ("write another process", raw(libc::SYS_process_vm_writev, [own, 0, 0, 0, 0, 0])),
        ("map executable memory", map(executable, private, -1)),
        ("map a file", map(1, i64::from(libc::MAP_SHARED), fd)),
        ("make memory executable", raw(libc::SYS_mprotect, [mapped, page, executable, 0, 0, 0])),
        ("make a file in memory", raw(libc::SYS_memfd_create, [at, 0, 0, 0, 0, 0])),
        ("leave a namespace", raw(libc::SYS_unshare, [0; 6])),
        ("use io_uring", raw(libc::SYS_io_uring_register, [-1, 0, 0, 0, 0, 0])),
        ("be dumped", raw(libc::SYS_prctl, [i64::from(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0])),
    ];
    results.into_iter().filter_map(|(name, succeeded)| succeeded.then_some(name)).collect()
}

/// The thread itself, and a thread that it starts as FFmpeg starts its own.
#[test]
fn a_sandboxed_thread_reaches_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let held = TcpStream::connect(server).unwrap();
    let (mut accepted, _) = listener.accept().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("kept");
    std::fs::write(&target, "kept").unwrap();
    let (path, connection) = (target.clone(), held.try_clone().unwrap());
    let attempted = move || {
        let own = attempts(server, &connection, path.clone());
        // Closing the connection is refused, so its drop leaves it open.
        let inherited = thread::spawn(move || attempts(server, &connection, path)).join().unwrap();
        (own, inherited)
    };
    assert_eq!(run("test", attempted).unwrap(), (vec![], vec![]));
    assert_eq!(std::fs::read(&target).unwrap(), b"kept");
    // The program's other threads keep their rights, and its connection has carried nothing.
    assert!(TcpStream::connect(server).is_ok());
    (&held).write_all(b"own").unwrap();
    let mut received = [0; 3];
    accepted.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"own");
}

/// Each kind of attempt is a real one: without the sandbox it succeeds.
#[test]
fn the_attempts_succeed_without_the_sandbox() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let held = TcpStream::connect(server).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let succeeded = attempts(server, &held, directory.path().join("kept"));
    // The last use of its descriptor was to close it.
    std::mem::forget(held);
    assert_eq!(succeeded.len(), ATTEMPTS, "only these succeed: {succeeded:?}");
}

/// One descriptor, not all of the same file.
#[test]
fn a_sandboxed_thread_has_its_output() {
    let mut kept = tempfile::tempfile().unwrap();
    let (mut output, mut other) = (kept.try_clone().unwrap(), kept.try_clone().unwrap());
    let permitted = Output::of(&output);
    let write = move || {
        assert!(other.write_all(b"other").is_err());
        output.write_all(b"abc").unwrap();
        output.seek(std::io::SeekFrom::Start(1)).unwrap();
        output.write_all(b"x").unwrap();
        let number = output.as_raw_fd();
        drop(output);
        number
    };
    let closed = spawn("test", Some(permitted), write).unwrap().join().unwrap();
    let mut text = String::new();
    kept.rewind().unwrap();
    kept.read_to_string(&mut text).unwrap();
    assert_eq!(text, "axc");
    let link = std::fs::read_link(format!("/proc/self/fd/{closed}"));
    assert!(link.is_err(), "closing it is permitted: {link:?}");
}

#[test]
fn the_restrictions_are_told() {
    // LANDLOCK_CREATE_RULESET_VERSION: a call that returns the version of Landlock in force, or -1.
    // SAFETY: it takes no memory.
    let landlock = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1) } > 0;
    assert_eq!(thread::spawn(|| restrict(None)).join().unwrap(), Restrictions { landlock, seccomp: true });
    assert_eq!(check().status(), net::doctor::Status::Ok);
}
