//! Headless Chromium, driven by chromedriver (W3C WebDriver) over a plain socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::test_env::TestEnv;
use ::lab::{Process, TIMEOUT};

/// A browser with one window.
#[derive(Debug)]
pub struct Browser {
    address: SocketAddr,
    session: String,
    _driver: Process,
}

impl Browser {
    /// Starts a browser with a new profile and a window of 1280 by 900 pixels.
    pub fn start(env: &TestEnv) -> Result<Self> {
        let mut driver =
            env.spawn("chromedriver", Command::new("chromedriver").arg("--port=0").env("HOME", env.directory()))?;
        let line = driver.line(TIMEOUT, "its port", |line| line.contains("started successfully on port"))?;
        let port = line.trim_end_matches('.').rsplit(' ').next().context("no port")?.parse::<u16>()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let profile = format!("--user-data-dir={}", env.path("profile").display());
        let mut arguments = vec![
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--window-size=1280,900",
        ];
        // No connections to anything but the server under test.
        arguments.extend([
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
        ]);
        arguments.extend(["--disable-sync", "--autoplay-policy=no-user-gesture-required", profile.as_str()]);
        let options = json!({ "binary": binary()?, "args": arguments });
        let wanted = json!({ "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let made = ask(address, "POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }))?;
        let session = made["sessionId"].as_str().with_context(|| format!("no session: {made}"))?.to_owned();
        Ok(Self { address, session, _driver: driver })
    }

    /// Runs `script` in every page, before the scripts of the page.
    pub fn before_each_page(&self, script: &str) -> Result<()> {
        self.devtools("Page.addScriptToEvaluateOnNewDocument", &json!({ "source": script })).map(drop)
    }

    /// Disconnects the page from the network, or connects it again.
    pub fn set_offline(&self, offline: bool) -> Result<()> {
        self.devtools("Network.enable", &json!({}))?;
        let unlimited = json!({ "offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1 });
        self.devtools("Network.emulateNetworkConditions", &unlimited).map(drop)
    }

    /// Puts the page into the background: the browser hides it and pauses its media.
    pub fn hide(&self) -> Result<()> {
        // A headless window has no other way; the page's scripts stop only between the two.
        for state in ["frozen", "active"] {
            self.devtools("Page.setWebLifecycleState", &json!({ "state": state }))?;
        }
        Ok(())
    }

    /// Makes a page that was hidden visible again.
    pub fn show(&self) -> Result<()> {
        // The browser shows the page as the next one when the one in front of it is closed.
        let other = self.devtools("Target.createTarget", &json!({ "url": "about:blank" }))?;
        self.devtools("Target.closeTarget", &json!({ "targetId": other["targetId"] }))?;
        self.devtools("Page.bringToFront", &json!({})).map(drop)
    }

    /// Sends a command of the Chrome DevTools Protocol to the page.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Opens a page and waits until it is loaded.
    pub fn open(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({ "url": url })).map(drop)
    }

    /// Runs a function body in the page and returns its value.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Taps with a finger at the centre of the element with the given id, whatever is drawn there.
    pub fn tap(&self, id: &str) -> Result<()> {
        let centre = "const r = document.getElementById(ID).getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]";
        let centre = self.run(&centre.replace("ID", &json!(id).to_string()))?;
        let at = |n: usize| centre[n].as_f64().map(|at| at as i64);
        let go = json!({ "type": "pointerMove", "x": at(0).context("no place")?, "y": at(1).context("no place")? });
        let actions = json!([go, { "type": "pointerDown", "button": 0 }, { "type": "pointerUp", "button": 0 }]);
        let finger =
            json!({ "type": "pointer", "id": "finger", "parameters": { "pointerType": "touch" }, "actions": actions });
        self.post("/actions", &json!({ "actions": [finger] })).map(drop)
    }

    /// Console messages of the page and the browser since the last call.
    pub fn console(&self) -> Result<Vec<Value>> {
        Ok(self.post("/se/log", &json!({ "type": "browser" }))?.as_array().cloned().unwrap_or_default())
    }

    /// Writes a PNG of the window.
    pub fn screenshot(&self, path: &Path) -> Result<()> {
        let picture = ask(self.address, "GET", &format!("/session/{}/screenshot", self.session), &Value::Null)?;
        std::fs::write(path, from_base64(picture.as_str().context("no picture")?)?)?;
        Ok(())
    }

    fn post(&self, command: &str, body: &Value) -> Result<Value> {
        ask(self.address, "POST", &format!("/session/{}{command}", self.session), body)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ask(self.address, "DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

/// Sends one WebDriver command. Returns `value` of the response, or the error in it.
fn ask(address: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = Vec::new();
    let mut buffer = [0; 65_536];
    // chromedriver states a length and may keep the connection open.
    let body = loop {
        let n = stream.read(&mut buffer).with_context(|| format!("{method} {path}"))?;
        answer.extend_from_slice(&buffer[..n]);
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&answer[..end])?.to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"))
                .context("no length")?
                .trim()
                .parse::<usize>()?;
            if answer.len() >= end + 4 + length {
                break answer[end + 4..end + 4 + length].to_vec();
            }
        }
        ensure!(n > 0, "{method} {path}: the response ends early");
    };
    let answer: Value = serde_json::from_slice(&body)?;
    let value = answer["value"].clone();
    if let Some(error) = value.get("error").and_then(Value::as_str) {
        bail!("{method} {path}: {error}: {}", value["message"].as_str().unwrap_or_default());
    }
    Ok(value)
}

fn binary() -> Result<&'static str> {
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("no Chromium: run deploy/test, which installs it")
}

/// Decodes Base64 (RFC 4648 §4). Fails on other characters.
pub fn from_base64(text: &str) -> Result<Vec<u8>> {
    let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::with_capacity(text.len() / 4 * 3));
    for c in text.bytes().filter(|c| !matches!(c, b'=' | b'\n' | b'\r')) {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => bail!("not base64"),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64() {
        for (text, expected) in
            [("", &b""[..]), ("Zg==", b"f"), ("Zm8=", b"fo"), ("Zm9v", b"foo"), ("+/+/", &[0xfb, 0xff, 0xbf])]
        {
            assert_eq!(from_base64(text).unwrap(), expected, "{text}");
        }
        assert!(from_base64("!").is_err());
    }

    #[test]
    fn a_page_loads_and_runs_a_script() {
        let env = TestEnv::new().unwrap();
        let browser = Browser::start(&env).unwrap();
        browser.open("data:text/html,<title>here</title>").unwrap();
        assert_eq!(browser.run("return document.title").unwrap(), "here");
        let picture = env.path("page.png");
        browser.screenshot(&picture).unwrap();
        assert!(std::fs::read(picture).unwrap().starts_with(b"\x89PNG"));
    }
}
