//! The limit of the process's open files.

/// Raises the limit of open files, since each connection is a file and the usual limit is 1024.
pub(crate) fn raise_file_limit(connections: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = (connections + OTHER_FILES) as u64;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = Some(limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)));
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, maximum: limit.maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < wanted {
        tracing::warn!(limit, required = wanted, "the open file limit is below the configured number of connections");
    }
}

/// Files besides accepted connections: listeners, pipes, logs, and connections being refused.
const OTHER_FILES: usize = 256;
