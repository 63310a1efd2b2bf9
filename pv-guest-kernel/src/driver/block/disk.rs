//! A disk as the rest of the kernel sees it.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::Poll;

use pv_abi::io::block::Operation;

use super::connection::Connection;
use super::request::{MAX_BYTES, Order};
use crate::block::{BlockDevice, Error, Properties, SECTOR, Work};
use crate::sched::executor;
use crate::sched::future::{Either, all, race};
use crate::sched::idle::Source;

#[derive(Default)]
pub struct Disk(RefCell<State>);

#[derive(Default)]
struct State {
    /// Of the last back-end that has connected.
    properties: Properties,
    /// How it makes durable what was written.
    flush_by: Option<Operation>,
    connection: Option<Connection>,
    /// The back-end has connected too.
    open: bool,
    /// The number of the last request. None of an older connection has it again.
    last_id: u64,
}

impl Disk {
    /// Takes a connection that no back-end has taken up yet, and looks after its responses.
    pub fn attach(self: &Rc<Self>, connection: Connection) {
        let (port, closed) = (connection.port().clone(), connection.closed().clone());
        let disk = Rc::downgrade(self);
        executor::spawn("disk", async move {
            while let Either::First(()) = race(port.wait(), closed.wait()).await {
                let Some(disk) = disk.upgrade() else { return };
                disk.look();
            }
        });
        self.0.borrow_mut().connection = Some(connection);
    }

    /// From now on the disk can be used.
    pub fn open(&self, properties: Properties, flush_by: Option<Operation>) {
        let mut state = self.0.borrow_mut();
        (state.properties, state.flush_by, state.open) = (properties, flush_by, true);
        if let Some(connection) = &state.connection {
            connection.port().use_doorbell();
        }
    }

    /// Gives the connection up. What is on its way ends with "gone".
    pub fn close(&self) {
        let mut state = self.0.borrow_mut();
        state.open = false;
        // It wakes those who wait, which come back here only in a turn of their own.
        state.connection = None;
    }

    /// What `f` says of the connection; no, where there is none.
    fn of_connection(&self, f: impl FnOnce(&mut Connection) -> bool) -> bool {
        self.0.borrow_mut().connection.as_mut().is_some_and(f)
    }

    fn with_connection<R>(&self, f: impl FnOnce(&mut Connection) -> R) -> Result<R, Error> {
        let mut state = self.0.borrow_mut();
        let open = state.open;
        state.connection.as_mut().filter(|_| open).map(f).ok_or(Error::Gone)
    }

    /// Makes one request, of which what was read goes to `into`.
    async fn make(&self, order: Order<'_>, into: &mut [u8]) -> Result<(), Error> {
        let id = {
            let mut state = self.0.borrow_mut();
            state.last_id += 1;
            state.last_id
        };
        poll_fn(|context| match self.with_connection(|connection| connection.start(id, &order, context)) {
            Ok(poll) => poll,
            Err(error) => Poll::Ready(Err(error)),
        })
        .await?;
        let request = OnItsWay { disk: self, id };
        poll_fn(|context| {
            match self.with_connection(|connection| connection.poll(request.id, into, context)) {
                Ok(poll) => poll,
                Err(error) => Poll::Ready(Err(error)),
            }
        })
        .await
    }

    fn check(&self, check: impl FnOnce(&Properties) -> Result<(), Error>) -> Result<(), Error> {
        let state = self.0.borrow();
        if state.open { check(&state.properties) } else { Err(Error::Gone) }
    }
}

impl Source for Disk {
    fn look(&self) -> bool {
        self.of_connection(Connection::reap)
    }

    fn expects(&self) -> bool {
        self.of_connection(|connection| connection.expects())
    }

    fn ask(&self) -> bool {
        self.of_connection(Connection::ask)
    }
}

/// A request that is given up when whoever waits for it is dropped.
struct OnItsWay<'a> {
    disk: &'a Disk,
    id: u64,
}

impl Drop for OnItsWay<'_> {
    fn drop(&mut self) {
        let _ = self.disk.with_connection(|connection| connection.give_up(self.id));
    }
}

/// The sector at which the chunk of that number starts.
fn sector_of(first: u64, chunk: usize) -> u64 {
    first + (chunk * MAX_BYTES / SECTOR) as u64
}

impl BlockDevice for Disk {
    fn properties(&self) -> Properties {
        self.0.borrow().properties
    }

    fn read<'a>(&'a self, sector: u64, into: &'a mut [u8]) -> Work<'a> {
        Box::pin(async move {
            self.check(|properties| properties.check(sector, into.len()))?;
            if into.len() <= MAX_BYTES {
                let length = into.len() as u64;
                return self
                    .make(Order { operation: Operation::READ, sector, length, data: &[] }, into)
                    .await;
            }
            let chunks = into.chunks_mut(MAX_BYTES).enumerate().map(|(index, chunk)| {
                let (sector, length) = (sector_of(sector, index), chunk.len() as u64);
                self.make(Order { operation: Operation::READ, sector, length, data: &[] }, chunk)
            });
            all(chunks).await.into_iter().collect()
        })
    }

    fn write<'a>(&'a self, sector: u64, from: &'a [u8]) -> Work<'a> {
        Box::pin(async move {
            self.check(|properties| properties.check_write(sector, from.len()))?;
            if from.len() <= MAX_BYTES {
                let (operation, length) = (Operation::WRITE, from.len() as u64);
                return self.make(Order { operation, sector, length, data: from }, &mut []).await;
            }
            let chunks = from.chunks(MAX_BYTES).enumerate().map(|(index, data)| {
                let (sector, length) = (sector_of(sector, index), data.len() as u64);
                self.make(Order { operation: Operation::WRITE, sector, length, data }, &mut [])
            });
            all(chunks).await.into_iter().collect()
        })
    }

    fn flush(&self) -> Work<'_> {
        Box::pin(async move {
            let Some(operation) = self.0.borrow().flush_by else { return Ok(()) };
            self.make(Order { operation, sector: 0, length: 0, data: &[] }, &mut []).await
        })
    }

    fn discard(&self, sector: u64, count: u64) -> Work<'_> {
        Box::pin(async move {
            let bytes = usize::try_from(count).ok().and_then(|count| count.checked_mul(SECTOR));
            self.check(|it| it.check_write(sector, bytes.ok_or(Error::OutOfRange)?))?;
            if !self.properties().discard {
                return Err(Error::Unsupported);
            }
            let operation = Operation::DISCARD;
            self.make(Order { operation, sector, length: count, data: &[] }, &mut []).await
        })
    }
}
