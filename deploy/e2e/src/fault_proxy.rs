//! A TCP proxy that injects faults: it forwards, stalls, or resets and refuses connections.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::Result;

/// A proxy between clients and one server.
#[derive(Debug)]
pub struct FaultProxy {
    /// The address for clients.
    pub address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// The proxy's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// Forwards all bytes in both directions.
    Forward,
    /// Keeps connections open, and forwards nothing.
    Stall,
    /// Closes all connections, including new ones.
    Refuse,
}

#[derive(Debug)]
struct State {
    mode: ProxyMode,
    connections: Vec<TcpStream>,
}

impl FaultProxy {
    /// Starts a forwarding proxy for `server`, on a port that the system assigns.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = State { mode: ProxyMode::Forward, connections: Vec::new() };
        let proxy = Self { address, state: Arc::new((Mutex::new(state), Condvar::new())) };
        let state = proxy.state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let _ = pass(&state, client, server);
            }
        });
        Ok(proxy)
    }

    /// Changes the mode of all current and future connections.
    pub fn set(&self, mode: ProxyMode) {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.mode = mode;
        if mode == ProxyMode::Refuse {
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        self.state.1.notify_all();
    }
}

fn pass(state: &Arc<(Mutex<State>, Condvar)>, client: TcpStream, server: SocketAddr) -> Result<()> {
    let server = TcpStream::connect(server)?;
    {
        let mut state = state.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.mode == ProxyMode::Refuse {
            return Ok(());
        }
        state.connections.extend([client.try_clone()?, server.try_clone()?]);
    }
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let state = state.clone();
        std::thread::spawn(move || copy(&state, from, to));
    }
    Ok(())
}

fn copy(state: &(Mutex<State>, Condvar), mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let state_guard = state.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(state.1.wait_while(state_guard, |state| state.mode == ProxyMode::Stall));
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
