//! `CUDAEMU_DEFER`: the work of a created stream waits until something makes it necessary, and streams run in an order
//! that a program must not rely on.  So a missing event wait or synchronization shows.
//!
//! Necessary is what CUDA promises and no more: a stream's synchronization or query needs that stream's work, an event's
//! needs what was before it, the legacy stream and synchronous copies need the blocking streams' work (not that of
//! streams made with `CU_STREAM_NON_BLOCKING`), `cuCtxSynchronize` and the synchronous frees need everything.

use super::error::{sticky, Status};
use super::graph::{Graph, Operation};
use crate::settings::Settings;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

pub enum Work {
    Operation(Operation),
    Graph(Arc<Graph>),
    /// An event: its time.
    Record(Arc<OnceLock<Instant>>),
    Wait(Ticket),
}

/// A place in a stream's work.
#[derive(Clone, Copy)]
pub struct Ticket {
    stream: usize,
    number: u64,
}

#[derive(Default)]
struct Queue {
    is_non_blocking: bool,
    submitted: u64,
    work: VecDeque<(u64, Work)>,
}

type Queues = BTreeMap<usize, Queue>;

/// Streams below are the reserved handles (0 default, 1 legacy, 2 per thread), whose work is done at once.
pub const FIRST_STREAM: usize = 16;

/// Locked while work is done: a stream's work is done in order, whoever needs it.
static QUEUES: Mutex<Queues> = Mutex::new(BTreeMap::new());

fn queues() -> MutexGuard<'static, Queues> {
    QUEUES.lock().unwrap_or_else(|e| e.into_inner())
}

pub fn create(stream: usize, is_non_blocking: bool) {
    queues().insert(stream, Queue { is_non_blocking, ..Queue::default() });
}

/// Forget a stream; if it has work left, that will still be done.
pub fn destroy(stream: usize) {
    let mut queues = queues();
    if queues.get(&stream).is_some_and(|queue| queue.work.is_empty()) {
        queues.remove(&stream);
    }
}

/// Does the work of `stream` wait?
pub fn defers(stream: usize) -> bool {
    stream >= FIRST_STREAM && Settings::current().defer > 0
}

/// Queue work of a stream that defers.
pub fn push(stream: usize, work: Work) -> Ticket {
    let mut queues = queues();
    let queue = queues.entry(stream).or_default();
    queue.submitted += 1;
    queue.work.push_back((queue.submitted, work));
    Ticket { stream, number: queue.submitted }
}

/// Do the work of a stream up to a place, and what it waits for.  Gives the first error.
unsafe fn advance(queues: &mut Queues, to: Ticket) -> Status {
    let mut first = Status::SUCCESS;
    loop {
        let Some(queue) = queues.get_mut(&to.stream) else { return first };
        if queue.work.front().is_none_or(|(number, _)| *number > to.number) {
            return first;
        }
        let Some((_, work)) = queue.work.pop_front() else { return first };
        let status = match work {
            _ if sticky().is_error() => sticky(),
            Work::Operation(operation) => operation.perform(),
            Work::Graph(graph) => graph.replay(),
            Work::Record(time) => {
                let _ = time.set(Instant::now());
                Status::SUCCESS
            }
            Work::Wait(ticket) => advance(queues, ticket),
        };
        if !first.is_error() {
            first = status;
        }
    }
}

/// Do the work of the streams that `is_needed` names, in the adversarial order.
unsafe fn finish_streams(is_needed: impl Fn(&Queue) -> bool) -> Status {
    let mut queues = queues();
    let mut streams: Vec<usize> = queues.iter().filter(|(_, q)| is_needed(q)).map(|(&stream, _)| stream).collect();
    if Settings::current().defer != 2 {
        streams.reverse(); // handles grow: the newest first
    }
    let finish = |stream| advance(&mut queues, Ticket { stream, number: u64::MAX });
    streams.into_iter().map(finish).fold(Status::SUCCESS, |first, s| if first.is_error() { first } else { s })
}

pub unsafe fn finish_all() -> Status {
    finish_streams(|_| true)
}

/// What the legacy stream waits for.
pub unsafe fn finish_blocking() -> Status {
    finish_streams(|queue| !queue.is_non_blocking)
}

pub unsafe fn finish_stream(stream: usize) -> Status {
    if stream < FIRST_STREAM {
        return finish_blocking();
    }
    advance(&mut queues(), Ticket { stream, number: u64::MAX })
}

pub unsafe fn finish(ticket: Ticket) -> Status {
    advance(&mut queues(), ticket)
}
