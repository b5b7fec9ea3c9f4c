//! FFmpeg filter graphs with one input, or none, and one output.

use ffmpeg_next::filter::{self, Graph};
use ffmpeg_next::{Error, Frame, frame};

/// A filter graph from a buffer source, or a generator, to a buffer sink.
pub(crate) struct FilterGraph {
    graph: Graph,
}

impl FilterGraph {
    /// A video graph. `source` is the arguments of the `buffer` source; `chain` is the filters between it and the sink.
    pub(crate) fn video(source: &str, chain: &str) -> Result<Self, Error> {
        Self::build("buffer", "buffersink", Some(source), chain)
    }

    /// An audio graph, as [`FilterGraph::video`]. Its output comes in frames of `frame_size` samples; 0 for any size.
    pub(crate) fn audio(source: &str, chain: &str, frame_size: u32) -> Result<Self, Error> {
        let mut this = Self::build("abuffer", "abuffersink", Some(source), chain)?;
        if frame_size > 0 {
            this.sink()?.sink().set_frame_size(frame_size);
        }
        Ok(this)
    }

    /// A graph whose `chain` starts with a generator of video.
    pub(crate) fn video_source(chain: &str) -> Result<Self, Error> {
        Self::build("buffer", "buffersink", None, chain)
    }

    /// A graph whose `chain` starts with a generator of audio.
    pub(crate) fn audio_source(chain: &str) -> Result<Self, Error> {
        Self::build("abuffer", "abuffersink", None, chain)
    }

    fn build(source: &str, sink: &str, arguments: Option<&str>, chain: &str) -> Result<Self, Error> {
        let mut graph = Graph::new();
        let find = |name| filter::find(name).ok_or(Error::FilterNotFound);
        graph.add(&find(sink)?, "out", "")?;
        match arguments {
            Some(arguments) => {
                graph.add(&find(source)?, "in", arguments)?;
                graph.output("in", 0)?.input("out", 0)?.parse(chain)?;
            }
            None => graph.input("out", 0)?.parse(chain)?,
        }
        graph.validate()?;
        Ok(Self { graph })
    }

    fn sink(&mut self) -> Result<filter::Context, Error> {
        self.graph.get("out").ok_or(Error::Bug)
    }

    /// Pushes a frame. FFmpeg takes its reference: the frame is empty afterwards.
    pub(crate) fn push(&mut self, frame: &Frame) -> Result<(), Error> {
        self.graph.get("in").ok_or(Error::Bug)?.source().add(frame)
    }

    /// Signals the end of input.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.graph.get("in").ok_or(Error::Bug)?.source().flush()
    }

    /// Pulls a picture; `None` if more input is needed, or if the graph is empty after [`FilterGraph::finish`].
    pub(crate) fn picture(&mut self) -> Result<Option<frame::Video>, Error> {
        let mut frame = frame::Video::empty();
        self.pull(&mut frame).map(|got| got.then_some(frame))
    }

    /// Pulls audio, as [`FilterGraph::picture`].
    pub(crate) fn sound(&mut self) -> Result<Option<frame::Audio>, Error> {
        let mut frame = frame::Audio::empty();
        self.pull(&mut frame).map(|got| got.then_some(frame))
    }

    fn pull(&mut self, frame: &mut Frame) -> Result<bool, Error> {
        match self.sink()?.sink().frame(frame) {
            Ok(()) => Ok(true),
            Err(Error::Eof | Error::Other { errno: ffmpeg_next::error::EAGAIN }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
