//! Small futures: giving way, waiting for one of two or for all of many, and a value that others wait for.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use crate::sync::Local;

/// Notes who is to be woken, once.
pub fn note(wakers: &mut Vec<Waker>, context: &Context) {
    if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
        wakers.push(context.waker().clone());
    }
}

/// Lets the other tasks that are ready run first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Which of two futures ended first.
pub enum Either<A, B> {
    First(A),
    Second(B),
}

/// Runs two futures until one of them ends, and drops the other.
pub async fn race<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> Either<A, B> {
    let mut first = pin!(first);
    let mut second = pin!(second);
    poll_fn(|context| {
        if let Poll::Ready(value) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(value));
        }
        second.as_mut().poll(context).map(Either::Second)
    })
    .await
}

/// Runs futures until all have ended, and gives what came of each, in order.
pub async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        for (future, result) in running.iter_mut().filter(|(_, result)| result.is_none()) {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                *result = Some(value);
            }
        }
        if running.iter().all(|(_, result)| result.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}

/// A value that is set once, and that any number of tasks wait for.
pub struct Signal<T>(Local<(Option<T>, Vec<Waker>)>);

impl<T: Clone> Signal<T> {
    /// A signal without a value.
    pub const fn new() -> Self {
        Self(Local::new((None, Vec::new())))
    }

    /// Sets the value, unless it has one.
    pub fn set(&self, value: T) {
        self.0.with(|(place, wakers)| {
            place.get_or_insert(value);
            wakers.drain(..).for_each(Waker::wake);
        });
    }

    /// Whether it is set; if not, who asks is woken when it is.
    pub async fn watch(&self) -> bool {
        poll_fn(|context| {
            Poll::Ready(self.0.with(|(place, wakers)| {
                if place.is_none() {
                    note(wakers, context);
                }
                place.is_some()
            }))
        })
        .await
    }

    /// Waits until a value is set, and gives a copy of it.
    pub async fn wait(&self) -> T {
        poll_fn(|context| {
            self.0.with(|(place, wakers)| match place {
                Some(value) => Poll::Ready(value.clone()),
                None => {
                    note(wakers, context);
                    Poll::Pending
                }
            })
        })
        .await
    }
}
