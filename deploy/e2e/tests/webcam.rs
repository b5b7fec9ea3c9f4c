//! Real drivers: Debian's stock kernel with its virtual camera (vivid), sound card (snd-aloop) and graphics card (virtio-gpu)
//! under qemu's software emulation; the broadcaster runs in the virtual machine, the cdn and the viewer on the host.
//!
//! `deploy/test --only webcam` builds the image first.

use anyhow::{Result, ensure};
use e2e::qemu_vm::{BOOT_TIMEOUT, COMMAND_TIMEOUT, HOST_FROM_GUEST, QemuVm};
use e2e::{Cdn, TestEnv, Viewer, until};

#[test]
fn a_camera_is_found_broadcast_unplugged_and_plugged_in_again() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut guest = QemuVm::boot(&env)?;

    let none = guest.run("broadcaster devices", COMMAND_TIMEOUT)?;
    ensure!(!none.contains("/dev/video"), "a camera is listed without one:\n{none}");
    guest.run(PLUG_IN, COMMAND_TIMEOUT)?;
    guest.run("modprobe snd-aloop", COMMAND_TIMEOUT)?;
    let devices = guest.run("broadcaster devices", COMMAND_TIMEOUT)?;
    ensure!(devices.contains("/dev/video0") && devices.contains("vivid"), "the camera is not listed:\n{devices}");
    ensure!(devices.contains("320x180"), "its modes are not listed:\n{devices}");
    ensure!(devices.contains("Loopback"), "the microphone is not listed:\n{devices}");

    let url = format!("rtmp://{HOST_FROM_GUEST}:{}/live/{key}", cdn.rtmp.port());
    let options = "--source webcam --size 160x120 --fps 5 --gop 2s --burn-in --log json";
    guest.run(&format!("broadcaster {options} {url} >/tmp/broadcaster.log 2>&1 &"), COMMAND_TIMEOUT)?;
    let seen = (|| {
        cdn.wait_live("live")?;
        let mut first = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
        first.wait_pictures(30, BOOT_TIMEOUT)?;
        let summary = first.finish()?;
        summary.ensure_unbroken(25)?;
        ensure!(summary.0["audio_frames"].as_u64() > Some(50), "no audio from the microphone: {}", summary.0);

        let mut second = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
        second.wait_pictures(10, BOOT_TIMEOUT)?;
        guest.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind", COMMAND_TIMEOUT)?;
        until(BOOT_TIMEOUT, "an error that names the camera", || {
            let log = guest.run("cat /tmp/broadcaster.log", COMMAND_TIMEOUT)?;
            Ok(log
                .lines()
                .any(|line| line.contains("video0") && (line.contains("WARN") || line.contains("ERROR")))
                .then_some(()))
        })?;
        // The driver unloads only when its device is closed: the broadcaster has closed it, and still runs.
        until(BOOT_TIMEOUT, "the driver to unload", || {
            Ok(guest.run("rmmod vivid && echo gone", COMMAND_TIMEOUT)?.contains("gone").then_some(()))
        })?;
        let running = guest.run("pidof broadcaster", COMMAND_TIMEOUT)?;
        ensure!(!running.trim().is_empty(), "the broadcaster ended when its camera was unplugged");

        let before = second.pictures()?;
        guest.run(PLUG_IN, COMMAND_TIMEOUT)?;
        second.wait_pictures(before + 15, BOOT_TIMEOUT)?;
        second.finish()?;
        second.ensure_no_duplicates()?;
        Ok(())
    })();
    let log = guest.run("cat /tmp/broadcaster.log; dmesg | tail -n 20", COMMAND_TIMEOUT)?;
    std::fs::write(env.path("guest.log"), &log)?;
    seen.inspect_err(|_| eprintln!("--- in the guest\n{log}"))
}

#[test]
fn a_screen_is_read_from_the_graphics_card() -> Result<()> {
    let env = TestEnv::new()?;
    let key = Cdn::key(&env, "live")?;
    let cdn = Cdn::start(&env, &[])?;
    let mut guest = QemuVm::boot(&env)?;
    let url = format!("rtmp://{HOST_FROM_GUEST}:{}/live/{key}", cdn.rtmp.port());
    let none =
        guest.run(&format!("timeout 20 broadcaster --source screen:kms --duration 5 {url} 2>&1"), BOOT_TIMEOUT)?;
    ensure!(none.contains("/dev/dri/card0"), "without a card, the error does not name it:\n{none}");

    guest.run("modprobe virtio-gpu && echo >/dev/tty0", COMMAND_TIMEOUT)?;
    let options = "--source screen:kms --size 160x120 --fps 2 --gop 2s --burn-in --log json";
    guest.run(&format!("broadcaster {options} {url} >/tmp/broadcaster.log 2>&1 &"), COMMAND_TIMEOUT)?;
    let seen = (|| {
        cdn.wait_live("live")?;
        let mut viewer = Viewer::start(&env, &cdn.rtmp_url("live"), &[])?;
        viewer.wait_pictures(10, BOOT_TIMEOUT)?;
        viewer.finish()?.ensure_unbroken(8)
    })();
    let log = guest.run("cat /tmp/broadcaster.log; dmesg | tail -n 20", COMMAND_TIMEOUT)?;
    seen.inspect_err(|_| eprintln!("--- in the guest\n{log}"))
}

/// Loads one camera with one capture node that is a webcam (and not a TV tuner).
const PLUG_IN: &str = "modprobe vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0x0";
