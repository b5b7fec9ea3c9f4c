//! FFmpeg's input formats and device names on each platform, in one table.

/// FFmpeg's input formats on one platform, and the syntax of their device names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    /// Input format of cameras.
    pub(crate) camera: &'static str,
    /// Name of the default camera.
    pub(crate) default_camera: &'static str,
    /// Prefix of a camera's name.
    pub(crate) camera_prefix: &'static str,
    /// Input format of screens.
    pub(crate) screen: &'static str,
    /// Name of the default screen.
    pub(crate) default_screen: &'static str,
    /// Input formats of microphones, preferred first.
    pub(crate) microphones: &'static [&'static str],
    /// Prefix of a microphone's name.
    pub(crate) microphone_prefix: &'static str,
}

/// The platform that this program was built for.
pub(crate) const HERE: Platform = if cfg!(target_os = "macos") {
    MACOS
} else if cfg!(target_os = "windows") {
    WINDOWS
} else {
    LINUX
};

const LINUX: Platform = Platform {
    camera: "v4l2",
    default_camera: "/dev/video0",
    camera_prefix: "",
    screen: "x11grab",
    default_screen: ":0",
    microphones: &["pulse", "alsa"],
    microphone_prefix: "",
};

const MACOS: Platform = Platform {
    camera: "avfoundation",
    default_camera: "default",
    camera_prefix: "",
    screen: "avfoundation",
    default_screen: "Capture screen 0",
    microphones: &["avfoundation"],
    // `video:audio`.
    microphone_prefix: ":",
};

const WINDOWS: Platform = Platform {
    camera: "dshow",
    default_camera: "",
    camera_prefix: "video=",
    screen: "gdigrab",
    default_screen: "desktop",
    microphones: &["dshow"],
    microphone_prefix: "audio=",
};
