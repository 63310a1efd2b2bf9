//! Xenstore: the domain's own home, and watches.

use alloc::format;
use alloc::string::String;

use pv_abi::{DomId, Errno};

use super::report::Report;
use crate::event;
use crate::xenstore::{self, Watch};

/// A node that the domain may write.
const NODE: &str = "data/selftest";

pub async fn run(report: &mut Report) {
    if !xenstore::is_present() {
        return report.left_out("xenstore", "this domain has none");
    }
    let number = xenstore::read_as("domid").await.map(DomId);
    report.equal("the number of this domain in xenstore", number, event::own_domain());
    let nothing = xenstore::read("nothing").await;
    report.equal("a node that there is not", nothing, Err(Errno::ENOENT));
    report.equal("writing what is not one's own", xenstore::write("name", "x").await, Err(Errno::EACCES));
    values(report).await;
    report.equal("watches", watching().await, Ok(()));
    together(report).await;
    report.equal("a node removed", xenstore::remove(NODE).await, Ok(()));
    report.equal("reading it", xenstore::read(NODE).await, Err(Errno::ENOENT));
}

async fn values(report: &mut Report) {
    // Longer than the ring.
    let long = String::from_utf8(alloc::vec![b'x'; 1900]).unwrap_or_default();
    for value in ["", "a value", &long] {
        let written = xenstore::write(&format!("{NODE}/value"), value).await;
        let read = xenstore::read(&format!("{NODE}/value")).await;
        let same = read.as_deref() == Ok(value);
        report.check("a value written and read", same, format_args!("{} bytes, {written:?}", value.len()));
    }
    let too_long = String::from_utf8(alloc::vec![b'x'; 5000]).unwrap_or_default();
    report.equal("one that no message holds", xenstore::write(NODE, &too_long).await, Err(Errno::E2BIG));
    let names = xenstore::directory(NODE).await;
    report.equal("the names below a node", names, Ok(alloc::vec![String::from("value")]));
}

/// A watch tells once that it is there, then each change below it, and nothing after its end.
async fn watching() -> Result<(), Errno> {
    let expect = |got: String, path: &str| if got == path { Ok(()) } else { Err(Errno::EINVAL) };
    let mut watch = Watch::new(NODE).await?;
    expect(watch.next().await?, NODE)?;
    let below = format!("{NODE}/below");
    xenstore::write(&below, "1").await?;
    expect(watch.next().await?, &below)?;
    drop(watch);
    xenstore::write(&below, "2").await?;
    let mut again = Watch::new(NODE).await?;
    expect(again.next().await?, NODE)
}

/// Many requests on their way at once, more than the ring holds: each gets its own reply.
async fn together(report: &mut Report) {
    let requests = (0..64).map(|number| async move {
        let path = format!("{NODE}/{number}");
        xenstore::write(&path, &format!("{number}")).await?;
        xenstore::read_as::<u32>(&path).await
    });
    let replies = crate::sched::future::all(requests).await;
    let right = (0..).zip(&replies).filter(|(number, reply)| **reply == Ok(*number)).count();
    report.equal("requests that overtake each other", (right, replies.len()), (64, 64));
}
