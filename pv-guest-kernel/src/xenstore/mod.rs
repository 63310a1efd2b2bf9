//! Xenstore, where domains, back-ends and the toolstack find each other: nodes with values, and watches on them.
//!
//! A path without a slash in front is below this domain's home. A domain may have no store, as a control domain under
//! Xen: then every request ends with ENOSYS.

mod client;
mod message;
#[allow(unsafe_code, reason = "memory shared with the server")]
mod ring;

use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::str::FromStr;

use pv_abi::Errno;
use pv_abi::io::xenstore::MessageType;

use crate::event::Port;
use crate::sched::executor;
use crate::start_info;
use crate::sync::Local;
use client::Client;
use ring::Ring;

static CLIENT: Local<Option<Client>> = Local::new(None);

/// Takes up the ring that the domain builder provides, and starts the task that reads it.
pub fn init() {
    let (frame, port) = start_info::with(|info| (info.store_mfn, info.store_evtchn));
    if start_info::is_control_domain() || frame.0 == 0 {
        return;
    }
    let Some(ring) = Ring::new(frame) else { return };
    let port = Rc::new(Port::adopt(port));
    CLIENT.with(|client| *client = Some(Client::new(ring, port.clone())));
    executor::spawn("xenstore", async move {
        loop {
            port.wait().await;
            let _ = with_client(|client| client.receive());
        }
    });
}

/// Whether there is a store.
pub fn is_present() -> bool {
    CLIENT.with(|client| client.is_some())
}

fn with_client<R>(f: impl FnOnce(&mut Client) -> R) -> Result<R, Errno> {
    CLIENT.with(|client| client.as_mut().map(f).ok_or(Errno::ENOSYS))
}

/// A request on its way. Dropping it gives its reply up.
struct Request(u32);

impl Request {
    fn new(message_type: MessageType, parts: &[&[u8]]) -> Result<Self, Errno> {
        with_client(|client| client.send(message_type, parts))?.map(Self)
    }

    async fn reply(self) -> Result<Vec<u8>, Errno> {
        poll_fn(|context| match with_client(|client| client.poll_reply(self.0, context)) {
            Ok(poll) => poll,
            Err(error) => core::task::Poll::Ready(Err(error)),
        })
        .await
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let _ = with_client(|client| client.forget(self.0));
    }
}

async fn ask(message_type: MessageType, parts: &[&[u8]]) -> Result<Vec<u8>, Errno> {
    Request::new(message_type, parts)?.reply().await
}

/// A node's value (`XS_READ`). EINVAL where it is not UTF-8.
pub async fn read(path: &str) -> Result<String, Errno> {
    let value = ask(MessageType::READ, &[path.as_bytes(), &[0]]).await?;
    String::from_utf8(value).map_err(|_| Errno::EINVAL)
}

/// A node's value, as a number or whatever else is written in text.
pub async fn read_as<T: FromStr>(path: &str) -> Result<T, Errno> {
    read(path).await?.parse().map_err(|_| Errno::EINVAL)
}

/// The names of a node's children.
pub async fn directory(path: &str) -> Result<Vec<String>, Errno> {
    ask(MessageType::DIRECTORY, &[path.as_bytes(), &[0]]).await.map(|names| message::strings(&names))
}

/// Sets a node's value, and makes the node where there is none.
pub async fn write(path: &str, value: &str) -> Result<(), Errno> {
    ask(MessageType::WRITE, &[path.as_bytes(), &[0], value.as_bytes()]).await.map(drop)
}

/// Removes a node, and all below it.
pub async fn remove(path: &str) -> Result<(), Errno> {
    ask(MessageType::RM, &[path.as_bytes(), &[0]]).await.map(drop)
}

/// Changes of a node, and below it. Dropping it ends that.
pub struct Watch(u32);

impl Watch {
    /// Starts to watch. The first event comes at once: it tells nothing but that.
    pub async fn new(path: &str) -> Result<Self, Errno> {
        let watch = Self(with_client(|client| client.add_watch(path))?);
        let token = format!("{}\0", watch.0);
        ask(MessageType::WATCH, &[path.as_bytes(), &[0], token.as_bytes()]).await?;
        Ok(watch)
    }

    /// Waits for the next change, and tells where.
    pub async fn next(&mut self) -> Result<String, Errno> {
        poll_fn(|context| match with_client(|client| client.poll_event(self.0, context)) {
            Ok(poll) => poll,
            Err(error) => core::task::Poll::Ready(Err(error)),
        })
        .await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = with_client(|client| client.remove_watch(self.0));
    }
}
