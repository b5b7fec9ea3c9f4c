//! Real drivers: Debian's stock kernel with its virtual camera (vivid), sound card (snd-aloop) and graphics card (virtio-gpu)
//! under qemu's software emulation, the broadcaster inside it, the cdn and the viewer outside.
//!
//! `deploy/test --only webcam` makes the image first.

use anyhow::{Result, ensure};
use e2e::qemu_vm::{BRIEF, EMULATED, Guest, HOST};
use e2e::{Cdn, Lab, Viewer, until};

#[test]
fn a_camera_is_found_broadcast_unplugged_and_plugged_in_again() -> Result<()> {
    let lab = Lab::new()?;
    let key = Cdn::key(&lab, "live")?;
    let cdn = Cdn::start(&lab, &[])?;
    let mut guest = Guest::boot(&lab)?;

    let none = guest.run("broadcaster devices", BRIEF)?;
    ensure!(!none.contains("/dev/video"), "a camera is listed before there is one:\n{none}");
    guest.run(PLUG_IN, BRIEF)?;
    guest.run("modprobe snd-aloop", BRIEF)?;
    let devices = guest.run("broadcaster devices", BRIEF)?;
    ensure!(devices.contains("/dev/video0") && devices.contains("vivid"), "the camera is not listed:\n{devices}");
    ensure!(devices.contains("320x180"), "its modes are not listed:\n{devices}");
    ensure!(devices.contains("Loopback"), "the microphone is not listed:\n{devices}");

    let url = format!("rtmp://{HOST}:{}/live/{key}", cdn.rtmp.port());
    let options = "--source webcam --size 160x120 --fps 5 --gop 2s --burn-in --log json";
    guest.run(&format!("broadcaster {options} {url} >/tmp/broadcaster.log 2>&1 &"), BRIEF)?;
    let seen = (|| {
        cdn.wait_live("live")?;
        let mut first = Viewer::start(&lab, &cdn.rtmp_url("live"), &[])?;
        first.wait_pictures(30, EMULATED)?;
        let summary = first.finish()?;
        summary.unbroken(25)?;
        ensure!(summary.0["audio_frames"].as_u64() > Some(50), "the microphone is not heard: {}", summary.0);

        let mut second = Viewer::start(&lab, &cdn.rtmp_url("live"), &[])?;
        second.wait_pictures(10, EMULATED)?;
        guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind", BRIEF)?;
        until(EMULATED, "an error that names the camera", || {
            let log = guest.run("cat /tmp/broadcaster.log", BRIEF)?;
            Ok(log
                .lines()
                .any(|line| line.contains("video0") && (line.contains("WARN") || line.contains("ERROR")))
                .then_some(()))
        })?;
        // The driver can only go once nobody holds its device open: the broadcaster has let go of it, and still runs.
        until(EMULATED, "the driver to be let go", || {
            Ok(guest.run("rmmod vivid && echo gone", BRIEF)?.contains("gone").then_some(()))
        })?;
        let running = guest.run("pidof broadcaster", BRIEF)?;
        ensure!(!running.trim().is_empty(), "the broadcaster ended when its camera was pulled out");

        let before = second.pictures()?;
        guest.run(PLUG_IN, BRIEF)?;
        second.wait_pictures(before + 15, EMULATED)?;
        second.finish()?;
        second.nothing_twice()?;
        Ok(())
    })();
    let log = guest.run("cat /tmp/broadcaster.log; dmesg | tail -n 20", BRIEF)?;
    std::fs::write(lab.path("guest.log"), &log)?;
    seen.inspect_err(|_| eprintln!("--- in the guest\n{log}"))
}

#[test]
fn a_screen_is_read_from_the_graphics_card() -> Result<()> {
    let lab = Lab::new()?;
    let key = Cdn::key(&lab, "live")?;
    let cdn = Cdn::start(&lab, &[])?;
    let mut guest = Guest::boot(&lab)?;
    let url = format!("rtmp://{HOST}:{}/live/{key}", cdn.rtmp.port());
    let none = guest.run(&format!("timeout 20 broadcaster --source screen:kms --duration 5 {url} 2>&1"), EMULATED)?;
    ensure!(none.contains("/dev/dri/card0"), "without a card, the error does not name it:\n{none}");

    guest.run("modprobe virtio-gpu && echo >/dev/tty0", BRIEF)?;
    let options = "--source screen:kms --size 160x120 --fps 2 --gop 2s --burn-in --log json";
    guest.run(&format!("broadcaster {options} {url} >/tmp/broadcaster.log 2>&1 &"), BRIEF)?;
    let seen = (|| {
        cdn.wait_live("live")?;
        let mut viewer = Viewer::start(&lab, &cdn.rtmp_url("live"), &[])?;
        viewer.wait_pictures(10, EMULATED)?;
        viewer.finish()?.unbroken(8)
    })();
    let log = guest.run("cat /tmp/broadcaster.log; dmesg | tail -n 20", BRIEF)?;
    seen.inspect_err(|_| eprintln!("--- in the guest\n{log}"))
}

/// One camera with one capture node, which shows itself as a webcam (and not as a television tuner).
const PLUG_IN: &str = "modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0";
