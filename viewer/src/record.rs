//! Recordings and pipes: units written without re-encoding to a file or to another player's standard input.
//!
//! A separate thread writes, so that a slow disk or player delays neither the network nor playback until a bounded queue is full. The next
//! broadcast continues in the same file, with the time between the two; a change of codec or picture size begins the next file: `talk.mp4`,
//! `talk-2.mp4`.

mod muxer_thread;

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use command::LogLimiter;
use media::{AccessUnit, Catalog, Epoch, Track, TrackId};
use tracing::{info, warn};

pub use self::muxer_thread::Error as MuxerError;
use self::muxer_thread::MuxerThread;
use crate::ffmpeg::{Container, Muxer};
use crate::sandbox::Output;

/// Where units are written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A file in this container.
    File(PathBuf, Container),
    /// The standard input of a shell command.
    Command(String),
    /// This process's standard output.
    Stdout,
}

/// Why a recording or pipe failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be created.
    #[error("cannot write {path}: {source}")]
    Create {
        /// Path of the recording.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The command cannot be run.
    #[error("cannot run '{command}': {source}")]
    Spawn {
        /// The shell command.
        command: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The command exited with an error.
    #[error("'{command}' failed: {status}")]
    Failed {
        /// The shell command.
        command: String,
        /// How it exited.
        status: ExitStatus,
    },
    /// The stream changed its tracks so often that the recording would be files of moments.
    #[error(
        "the stream changed its format more than {MAX_FILES} times within {} s, and each time begins another file: the publisher must keep its \
         codecs and its picture size",
        FILES_WITHIN.as_secs()
    )]
    TooManyFiles,
    /// The muxer failed.
    #[error(transparent)]
    Muxer(#[from] MuxerError),
    /// The writing thread panicked: our bug.
    #[error("the writing thread panicked")]
    Broken,
}

/// A handle to a writing thread.
#[derive(Debug)]
pub struct Recorder {
    units: SyncSender<(Arc<Catalog>, AccessUnit)>,
    result: Receiver<Result<(), Error>>,
    is_pipe: bool,
}

impl Recorder {
    /// Starts the thread, and opens the file.
    ///
    /// # Errors
    /// [`Error::Create`] if the file cannot be created.
    pub fn start(target: Target) -> Result<Self, Error> {
        let is_pipe = !matches!(target, Target::File(..));
        let first = match &target {
            Target::File(path, _) => Some(FirstFile::open(path)?),
            _ => None,
        };
        let (units, inbox) = sync_channel(QUEUE);
        let (done, result) = sync_channel(1);
        let writer = Writer::new(target, first);
        let run = move || {
            // The receiver may have been dropped already.
            let _ = done.send(writer.run(&inbox));
        };
        thread::Builder::new().name("record".into()).spawn(run).map_err(|_| Error::Broken)?;
        Ok(Self { units, result, is_pipe })
    }

    /// Whether this is a pipe to another program: when that ends, so does the viewer.
    pub fn is_pipe(&self) -> bool {
        self.is_pipe
    }

    /// Queues a unit. Blocks while the queue is full, until `give_up` returns true: then the unit is dropped. Returns `false` if the writer has
    /// ended: see [`finish`](Self::finish).
    pub fn push(&self, catalog: &Arc<Catalog>, unit: &AccessUnit, give_up: impl Fn() -> bool) -> bool {
        let mut item = (catalog.clone(), unit.clone());
        loop {
            match self.units.try_send(item) {
                Ok(()) => return true,
                Err(TrySendError::Disconnected(_)) => return false,
                Err(TrySendError::Full(back)) => item = back,
            }
            if give_up() {
                return true;
            }
            thread::sleep(TICK);
        }
    }

    /// Writes what is queued and finishes the file. Does not wait for a program that does not read: its input ends with this process.
    ///
    /// # Errors
    /// The first error of the writer.
    pub fn finish(self) -> Result<(), Error> {
        drop(self.units);
        if !self.is_pipe {
            return self.result.recv().unwrap_or(Err(Error::Broken));
        }
        match self.result.recv_timeout(PIPE_DRAIN_TIMEOUT) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                info!("the program behind the pipe does not read: dropping the remaining data");
                Ok(())
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::Broken),
        }
    }
}

/// The first file of a recording, opened before there is anything to write.
struct FirstFile {
    file: File,
    path: PathBuf,
    /// Whether it was created just now: then it is removed if nothing is written.
    is_new: bool,
}

impl FirstFile {
    fn open(path: &Path) -> Result<Self, Error> {
        let is_new = !path.exists();
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path);
        let file = file.map_err(|source| Error::Create { path: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned(), is_new })
    }
}

struct Writer {
    target: Target,
    first: Option<FirstFile>,
    files: u32,
    /// When the newest files, or commands, were begun; at most [`MAX_FILES`].
    begun: VecDeque<Instant>,
    open: Option<OpenFile>,
    /// Units that wait until all tracks are known.
    held: VecDeque<(Arc<Catalog>, AccessUnit)>,
    started: bool,
    skipped_log: LogLimiter<TrackId>,
    broadcast_log: LogLimiter<Epoch>,
}

struct OpenFile {
    muxer: MuxerThread,
    tracks: Vec<Track>,
    catalog: Arc<Catalog>,
    /// Added to all timestamps, in milliseconds, so that the file starts at zero and continues across epochs.
    offset: i64,
    /// The last DTS written of each track, in the file's time.
    last: BTreeMap<TrackId, i64>,
    child: Option<Child>,
    /// Whether the other end of the pipe has closed.
    closed: Arc<AtomicBool>,
}

impl Writer {
    fn new(target: Target, first: Option<FirstFile>) -> Self {
        Self {
            target,
            first,
            files: 0,
            begun: VecDeque::new(),
            open: None,
            held: VecDeque::new(),
            started: false,
            skipped_log: LogLimiter::new(|skipped, track: &TrackId| {
                warn!(%track, skipped, "skipped a unit: its timestamp is not after the last one written");
            }),
            broadcast_log: LogLimiter::new(|broadcasts, epoch: &Epoch| {
                info!(%epoch, broadcasts, "the recording continues with the next broadcast");
            }),
        }
    }

    fn run(mut self, inbox: &Receiver<(Arc<Catalog>, AccessUnit)>) -> Result<(), Error> {
        let result = self.write_all(inbox);
        let closed = self.close(result);
        if let Some(unused) = self.first.take().filter(|unused| unused.is_new)
            && let Err(error) = std::fs::remove_file(&unused.path)
        {
            warn!(%error, path = %unused.path.display(), "cannot remove the empty recording");
        }
        closed
    }

    fn write_all(&mut self, inbox: &Receiver<(Arc<Catalog>, AccessUnit)>) -> Result<(), Error> {
        while let Ok((catalog, unit)) = inbox.recv() {
            if !self.started && !self.may_start(&catalog, &unit) {
                self.held.push_back((catalog, unit));
                continue;
            }
            self.started = true;
            self.held.push_back((catalog, unit));
            self.write_held()?;
        }
        // The stream ended before all tracks were known: write the held units.
        self.write_held()
    }

    /// Writes the held units, each with the newest catalog of its broadcast.
    fn write_held(&mut self) -> Result<(), Error> {
        while let Some((catalog, unit)) = self.held.pop_front() {
            let newer = self.held.iter().rev().find(|(newer, _)| newer.epoch == catalog.epoch);
            let catalog = newer.map_or(catalog, |(newer, _)| newer.clone());
            self.write(&catalog, &unit)?;
        }
        Ok(())
    }

    /// Whether writing may begin: a track that is announced a moment after the first must be in the file from the start.
    fn may_start(&self, catalog: &Catalog, unit: &AccessUnit) -> bool {
        let has_both = catalog.video().is_some() && catalog.audio().is_some();
        let waited = self
            .held
            .front()
            .is_some_and(|(_, first)| unit.dts - first.dts > MAX_TRACK_WAIT || unit.epoch != first.epoch);
        has_both || waited || self.held.len() >= QUEUE
    }

    fn write(&mut self, catalog: &Arc<Catalog>, unit: &AccessUnit) -> Result<(), Error> {
        if self.open.as_ref().is_none_or(|open| !Arc::ptr_eq(&open.catalog, catalog)) {
            self.enter(catalog, unit)?;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let dts = unit.dts.as_millis().saturating_add(open.offset);
        if open.last.get(&unit.track).is_some_and(|last| dts <= *last) {
            // When one broadcast follows another, a track may begin before the last one ended, which no container allows.
            self.skipped_log.note(Instant::now(), unit.track);
            return Ok(());
        }
        open.muxer.write(unit, open.offset)?;
        open.last.insert(unit.track, dts);
        Ok(())
    }

    /// Another catalog: continues the file, or begins the next one.
    fn enter(&mut self, catalog: &Arc<Catalog>, unit: &AccessUnit) -> Result<(), Error> {
        match &mut self.open {
            Some(open) if is_same(&open.tracks, &catalog.tracks) => {
                if open.catalog.epoch != catalog.epoch {
                    open.offset = next_offset(open, catalog, unit);
                    self.broadcast_log.note(Instant::now(), catalog.epoch);
                }
                open.catalog = catalog.clone();
                Ok(())
            }
            _ => {
                self.close(Ok(()))?;
                self.open = Some(self.begin(catalog, unit)?);
                Ok(())
            }
        }
    }

    fn begin(&mut self, catalog: &Arc<Catalog>, unit: &AccessUnit) -> Result<OpenFile, Error> {
        let now = Instant::now();
        self.begun.retain(|begun| now.saturating_duration_since(*begun) < FILES_WITHIN);
        if self.begun.len() >= MAX_FILES {
            return Err(Error::TooManyFiles);
        }
        self.begun.push_back(now);
        self.files += 1;
        let mut tracks = catalog.tracks.clone();
        // Players open the first track: video before audio.
        tracks.sort_by_key(|track| track.id);
        let mut child = None;
        let closed = Arc::new(AtomicBool::new(false));
        let muxer = match &self.target {
            Target::File(path, container) => {
                let path = numbered(path, self.files);
                let failed = |source| Error::Create { path: path.clone(), source };
                let file = match self.first.take() {
                    Some(first) => first.file.set_len(0).map(|()| first.file),
                    None => File::create(&path),
                };
                let file = file.map_err(failed)?;
                info!(path = %path.display(), "recording");
                let (container, tracks) = (*container, tracks.clone());
                MuxerThread::start(Output::of(&file), move || Muxer::to_file(file, container, &tracks))?
            }
            Target::Command(command) => {
                let spawned = Command::new("sh").arg("-c").arg(command).stdin(Stdio::piped()).spawn();
                let mut process = spawned.map_err(|source| Error::Spawn { command: command.clone(), source })?;
                let stdin = process.stdin.take().expect("standard input is piped");
                child = Some(process);
                let output = Output::of(&stdin);
                to_pipe(output, ClosedDetector { inner: stdin, closed: closed.clone() }, &tracks)?
            }
            Target::Stdout => {
                let output = Output::of(&io::stdout());
                to_pipe(
                    output,
                    ClosedDetector { inner: UnbufferedStdout(io::stdout()), closed: closed.clone() },
                    &tracks,
                )?
            }
        };
        let offset = -unit.dts.as_millis();
        let (catalog, last) = (catalog.clone(), BTreeMap::new());
        Ok(OpenFile { muxer, tracks, catalog, offset, last, child, closed })
    }

    /// Finishes the open file or pipe; `result` is the result of writing so far.
    fn close(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        let Some(open) = self.open.take() else { return result };
        let finished = open.muxer.finish().map_err(Error::from);
        let result = result.and(finished);
        // A program that stops reading is not an error, unless it exits with one.
        let result = if open.closed.load(Ordering::Relaxed) { Ok(()) } else { result };
        let (Some(mut child), Target::Command(command)) = (open.child, &self.target) else { return result };
        match wait(&mut child, CHILD_EXIT_TIMEOUT) {
            Some(status) if !status.success() => Err(Error::Failed { command: command.clone(), status }),
            Some(_) => result,
            None => {
                // Its input has ended, and it may take its time with the rest; it is reaped when it exits.
                thread::spawn(move || child.wait().inspect_err(|error| warn!(%error, "cannot wait for the player")));
                result
            }
        }
    }
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let until = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < until => thread::sleep(TICK),
            _ => return None,
        }
    }
}

fn to_pipe<W: Write + Send + 'static>(output: Output, pipe: W, tracks: &[Track]) -> Result<MuxerThread, MuxerError> {
    let tracks = tracks.to_vec();
    MuxerThread::start(output, move || Muxer::to_pipe(pipe, Container::Matroska, &tracks))
}

/// Whether the file can continue: the same tracks, in any order.
fn is_same(written: &[Track], tracks: &[Track]) -> bool {
    written.len() == tracks.len() && tracks.iter().all(|track| written.contains(track))
}

/// The offset of the next broadcast in the file: as long after the last one as it was captured, if the capture clocks are known; else right after it.
fn next_offset(open: &OpenFile, catalog: &Catalog, unit: &AccessUnit) -> i64 {
    let end = open.last.values().max().map_or(0, |last| last + 1);
    let behind = end - unit.dts.as_millis();
    let clocks = open.catalog.clock.zip(catalog.clock);
    let by_clock = clocks.map(|(old, new)| open.offset + new.micros_since(old) / 1000);
    by_clock.filter(|offset| (behind..behind + MAX_EPOCH_GAP).contains(offset)).unwrap_or(behind)
}

/// The path of file `number`, counted from 1: `talk.mp4`, then `talk-2.mp4`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    if number <= 1 {
        return path.to_owned();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{stem}-{number}.{extension}"))
}

/// Standard output without line buffering.
struct UnbufferedStdout(io::Stdout);

impl Write for UnbufferedStdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.0.flush()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Records when the other end of a pipe has closed, which FFmpeg's error does not say.
struct ClosedDetector<W> {
    inner: W,
    closed: Arc<AtomicBool>,
}

impl<W: Write> Write for ClosedDetector<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_closed = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        self.inner.write(bytes).inspect_err(|error| self.closed.store(is_closed(error), Ordering::Relaxed))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// How long a pipe may take to drain the queue when the viewer ends.
const PIPE_DRAIN_TIMEOUT: Duration = Duration::from_millis(500);
/// How long to wait for the exit status of a command whose input has ended.
const CHILD_EXIT_TIMEOUT: Duration = Duration::from_millis(250);
/// Bounds the files, or commands, that a recording begins within [`FILES_WITHIN`].
const MAX_FILES: usize = 30;
/// Interval over which [`MAX_FILES`] is counted.
const FILES_WITHIN: Duration = Duration::from_secs(60);
/// How often a full queue and a child process are checked.
const TICK: Duration = Duration::from_millis(5);
/// Bounds the queue, in units: about half a minute.
const QUEUE: usize = 4096;
/// Milliseconds of units that are held until all tracks are known.
const MAX_TRACK_WAIT: i64 = 1000;
/// Milliseconds. A longer pause between two broadcasts is cut out.
const MAX_EPOCH_GAP: i64 = 3_600_000;

#[cfg(test)]
mod tests;
