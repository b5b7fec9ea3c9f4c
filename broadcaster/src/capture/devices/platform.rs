//! How each platform's devices are reached through FFmpeg. One table; everything else asks it.

/// FFmpeg's input formats on one platform, and how a device is written for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Platform {
    /// Cameras.
    pub(crate) camera: &'static str,
    /// What a camera that is not named is called.
    pub(crate) default_camera: &'static str,
    /// What a camera's name is prefixed with.
    pub(crate) camera_prefix: &'static str,
    /// Screens.
    pub(crate) screen: &'static str,
    /// What a screen that is not named is called.
    pub(crate) default_screen: &'static str,
    /// Microphones, best first.
    pub(crate) microphones: &'static [&'static str],
    /// What a microphone's name is prefixed with.
    pub(crate) microphone_prefix: &'static str,
}

/// This machine's.
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
