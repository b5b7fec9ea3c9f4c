//! A muxer in a sandboxed thread: it parses what came from the network, and writes to one file or pipe that was opened for it.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use media::AccessUnit;

use crate::ffmpeg::{self, Muxer};
use crate::sandbox::{self, Output};

/// Why a container is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The muxer failed.
    #[error(transparent)]
    Ffmpeg(#[from] ffmpeg::Error),
    /// The system has no thread for the muxer, or it panicked: our bug.
    #[error("the muxer has no thread")]
    NoThread,
}

/// A handle to the thread; it does one thing at a time, and its caller waits for it.
pub(super) struct MuxerThread {
    units: SyncSender<(AccessUnit, i64)>,
    results: Receiver<Result<(), ffmpeg::Error>>,
}

impl MuxerThread {
    /// Starts the thread, which opens a container in `output` with `open`.
    ///
    /// # Errors
    /// Those of `open`.
    pub(super) fn start(
        output: Output,
        open: impl FnOnce() -> Result<Muxer, ffmpeg::Error> + Send + 'static,
    ) -> Result<Self, Error> {
        let (units, inbox) = sync_channel::<(AccessUnit, i64)>(1);
        let (done, results) = sync_channel(1);
        let run = move || {
            let mut muxer = match open() {
                Ok(muxer) => muxer,
                Err(error) => return done.send(Err(error)),
            };
            done.send(Ok(()))?;
            for (unit, offset) in inbox {
                done.send(muxer.write(&unit, offset))?;
            }
            done.send(muxer.finish())
        };
        sandbox::spawn("mux", Some(output), run).map_err(|_| Error::NoThread)?;
        let started = Self { units, results };
        started.result()?;
        Ok(started)
    }

    /// Writes a unit with `offset` milliseconds added to its timestamps.
    ///
    /// # Errors
    /// Those of [`Muxer::write`].
    pub(super) fn write(&self, unit: &AccessUnit, offset: i64) -> Result<(), Error> {
        self.units.send((unit.clone(), offset)).map_err(|_| Error::NoThread)?;
        self.result()
    }

    /// Writes the container's trailer, and closes the file or pipe.
    ///
    /// # Errors
    /// Those of [`Muxer::finish`].
    pub(super) fn finish(self) -> Result<(), Error> {
        let Self { units, results } = self;
        drop(units);
        results.recv().map_err(|_| Error::NoThread)?.map_err(Error::from)
    }

    fn result(&self) -> Result<(), Error> {
        self.results.recv().map_err(|_| Error::NoThread)?.map_err(Error::from)
    }
}
