//! The floor: the minimum cost of a server that writes to each socket. It accepts the same connections, and writes each frame from one shared
//! buffer to each socket in turn. It has no window and handles neither joins nor slow players.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use net::rtmp::framing::{self, PLAY_CHUNK_SIZE};
use net::rtmp::server::{self, PlayState, Publisher, Request};
use net::rtmp::{Limits, Message};
use tokio::net::{TcpListener, TcpStream};

type Sockets = Rc<RefCell<Vec<(std::net::TcpStream, PlayState)>>>;

pub(crate) fn run() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!("{}", serde_json::json!({"event": "listening", "rtmp": listener.local_addr()?.to_string()}));
        let sockets = Sockets::default();
        loop {
            let (socket, _) = listener.accept().await?;
            tokio::task::spawn_local(connection(socket, sockets.clone()));
        }
    })
}

async fn connection(socket: TcpStream, sockets: Sockets) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    match server::accept(socket, &Limits::default()).await? {
        Request::Publish(request) => relay(request.accept(None).await?, &sockets).await,
        Request::Play(request) => {
            let (socket, state) = request.accept().await?.into_parts();
            sockets.borrow_mut().push((socket.into_std()?, state));
            Ok(())
        }
    }
}

async fn relay(mut publisher: Publisher<TcpStream>, sockets: &Sockets) -> anyhow::Result<()> {
    let mut pending = Vec::new();
    while let Some(message) = publisher.next().await? {
        pending.extend_from_slice(&framing::message(&message, PLAY_CHUNK_SIZE)?.to_bytes());
        if matches!(message, Message::Video { .. }) {
            for (socket, _) in sockets.borrow().iter() {
                let _ = (&*socket).write(&pending)?;
            }
            pending.clear();
        }
    }
    Ok(())
}
