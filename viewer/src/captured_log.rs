//! For tests: what code logs on the thread of the test.

use std::io::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

/// The lines of level `info` and above that `run` logs.
pub(crate) fn captured_log(run: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_target(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = std::mem::take(&mut *log.0.lock());
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
