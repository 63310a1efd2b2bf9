//! `share`, `unshare` and `attach`: two domains with one page, and an event channel between them.
//!
//! The page has two lines of text: the owner's, then the borrower's. Each is what the other may have written meanwhile,
//! so it is copied out, cut off and shown without control characters.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;

use pv_abi::{DomId, EventPort, GrantRef, PAGE_SIZE};

use crate::event::{self, Port};
use crate::grant::{Borrowed, Grant};
use crate::memory::SharedPage;
use crate::sched::future::race;
use crate::sync::Local;
use crate::time;

const OWNERS_LINE: usize = 0;
const BORROWERS_LINE: usize = PAGE_SIZE / 2;
/// Longer lines are cut off.
const LINE: usize = 128;
/// How often one looks for what is not told by an event.
const INTERVAL: u64 = 20 * time::MILLISECOND;

/// A page that is shared, and the port at which its borrower answers.
struct Shared {
    grant: Grant,
    port: Rc<Port>,
}

/// What is shared, by reference.
static SHARED: Local<BTreeMap<GrantRef, Shared>> = Local::new(BTreeMap::new());

/// Lends a page with a line of text, and waits for the answer. The page stays lent.
pub async fn share(domain: DomId) -> Result<(), String> {
    let own = event::own_domain().map_err(|error| format!("no number of this domain: {error}"))?;
    let grant = Grant::new(domain).map_err(|error| format!("no page can be lent: {error}"))?;
    let port = event::alloc_unbound(domain).map_err(|error| format!("no port for {domain}: {error}"))?;
    let port = Rc::new(port);
    write(grant.page(), OWNERS_LINE, &format!("this page is lent by {own}"));
    let reference = grant.reference();
    SHARED.with(|shared| shared.insert(reference, Shared { grant, port: port.clone() }));
    println!("to be typed in {domain}: attach {} {} {}", own.0, reference.0, port.number().0);
    port.wait().await;
    let answer = SHARED.with(|shared| shared.get(&reference).map(|it| read(it.grant.page(), BORROWERS_LINE)));
    match answer {
        Some(answer) => println!("{domain} answers: {answer}"),
        None => println!("{domain} answers on a page that is not shared any more"),
    }
    Ok(())
}

/// Hangs up, waits until nobody has the page mapped, and takes it back.
pub async fn unshare(reference: GrantRef) -> Result<(), String> {
    let shared = SHARED.with(|shared| shared.remove(&reference));
    let Shared { grant, port } =
        shared.ok_or_else(|| format!("nothing is shared by entry {}", reference.0))?;
    drop(port);
    while grant.is_in_use() {
        time::sleep(INTERVAL).await;
    }
    drop(grant);
    println!("entry {} is taken back", reference.0);
    Ok(())
}

/// Maps a page of another domain's, reads its line and answers. It is unmapped after `seconds`, or when its owner hangs
/// up or ends before that.
pub async fn attach(domain: DomId, reference: GrantRef, port: EventPort, seconds: u32) -> Result<(), String> {
    let own = event::own_domain().map_err(|error| format!("no number of this domain: {error}"))?;
    let what = format_args!("{domain} lends us nothing by entry {}", reference.0);
    let page = Borrowed::map(domain, reference).map_err(|error| format!("{what}: {error}"))?;
    let what = format_args!("{domain} has no port {} for us", port.0);
    let port = event::bind_interdomain(domain, port).map_err(|error| format!("{what}: {error}"))?;
    println!("{domain} says: {}", read(page.page(), OWNERS_LINE));
    write(page.page(), BORROWERS_LINE, &format!("{own} has read it"));
    port.notify();
    if seconds > 0 {
        race(time::sleep(u64::from(seconds) * time::SECOND), hang_up(&port)).await;
        let now = if port.is_connected() { "still there" } else { "gone" };
        println!("{domain} is {now}; its page says: {}", read(page.page(), OWNERS_LINE));
    }
    Ok(())
}

/// Waits until nobody is at the other end. No event tells that.
async fn hang_up(port: &Port) {
    while port.is_connected() {
        time::sleep(INTERVAL).await;
    }
}

fn write(page: &SharedPage, place: usize, text: &str) {
    let mut line = [0; LINE];
    let length = text.len().min(LINE);
    line[..length].copy_from_slice(&text.as_bytes()[..length]);
    page.write(place, &line);
}

fn read(page: &SharedPage, place: usize) -> String {
    let mut line = [0; LINE];
    page.read(place, &mut line);
    let text = line.split(|byte| *byte == 0).next().unwrap_or_default();
    format!("{}", text.escape_ascii())
}
