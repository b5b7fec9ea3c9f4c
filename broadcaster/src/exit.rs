//! The exit code of each error that ends the program; [`config::EXIT_CODES`](crate::config::EXIT_CODES) lists them for people.

use command::Exit;

use crate::capture::plan;
use crate::encode::audio;
use crate::{app, peer, publish};

/// The exit code of an error that ended the program.
pub fn exit_of(error: &anyhow::Error) -> Exit {
    if let Some(error) = error.downcast_ref() {
        return exit_of_capture(error);
    }
    if error.is::<peer::Error>() {
        return Exit::System;
    }
    match error.downcast_ref() {
        Some(publish::Error::Refused(refusal)) if !refusal.is_about_the_key() => Exit::Unavailable,
        Some(publish::Error::Refused(_) | publish::Error::TakenOver) => Exit::NotPermitted,
        Some(publish::Error::Undelivered(_)) => Exit::Unavailable,
        Some(publish::Error::UnitLog(_)) => Exit::CannotCreate,
        None if error.is::<app::Error>() => Exit::Unavailable,
        None if error.is::<std::io::Error>() => Exit::CannotCreate,
        None => Exit::Failure,
    }
}

fn exit_of_capture(error: &plan::Error) -> Exit {
    match error {
        plan::Error::NoInput(_) => Exit::NoInput,
        plan::Error::Video(error) if error.is_about_the_machine() => Exit::NoInput,
        plan::Error::Video(error) if error.is_about_the_options() => Exit::Usage,
        plan::Error::Audio(audio::Error::Unknown(_)) => Exit::NoInput,
        plan::Error::Audio(audio::Error::Open { .. }) => Exit::Usage,
        _ => Exit::Failure,
    }
}
