//! What waits for the device: bounded, first come first served, cut into batches across requests.

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::metrics::Metrics;
use super::problem::Problem;
use crate::data::Picture;
use crate::infer::{NoiseValues, Review};

/// One picture that is asked for.
pub(super) struct Item {
    /// Ids of the caption's words, at least one.
    pub ids: Vec<i32>,
    /// Another caption's ids, and how far on the way there.
    pub to: Option<(Vec<i32>, f32)>,
    pub noise: NoiseValues,
    /// The sentence vector is multiplied by this.
    pub sentence: f32,
    pub caption: String,
    /// What led to the picture, for its text chunk.
    pub comment: String,
}

/// What a request wants of each picture.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    /// Every stage as a PNG; else the last as it is.
    pub pngs: bool,
    pub attention: bool,
    pub review: bool,
}

/// The attention of each place of a picture over the words.
pub(super) struct AttentionMap {
    pub height: usize,
    pub width: usize,
    pub words: usize,
    pub largest: f32,
    /// Word by word, row by row; 255 is `largest`.
    pub values: Vec<u8>,
}

/// What a client hears of its pictures. The end of the channel is the end of the work.
pub(super) enum Event {
    Stage { sample: usize, stage: usize, side: usize, png: Vec<u8>, attention: Option<AttentionMap> },
    Picture { sample: usize, stage: usize, is_last: bool, picture: Picture },
    Review { sample: usize, review: Review },
    Failed(Problem),
}

/// Where the events of a request go. The request is over when the last of its pieces is dropped.
pub(super) struct Sink {
    events: UnboundedSender<Event>,
    pub wanted: Wanted,
    pub since: Instant,
    metrics: Arc<Metrics>,
}

impl Sink {
    pub fn new(events: UnboundedSender<Event>, wanted: Wanted, metrics: Arc<Metrics>) -> Sink {
        metrics.in_flight.fetch_add(1, Relaxed);
        Sink { events, wanted, since: Instant::now(), metrics }
    }

    /// A client that is gone hears nothing.
    pub fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }

    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.metrics.in_flight.fetch_sub(1, Relaxed);
        self.metrics.generated(self.since.elapsed().as_secs_f64());
    }
}

/// One picture of a request.
pub(super) struct Piece {
    pub sample: usize,
    pub item: Item,
    pub sink: Arc<Sink>,
}

pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    requests: VecDeque<VecDeque<Piece>>,
    is_closed: bool,
}

/// Why a request may not wait.
#[derive(Debug, PartialEq)]
pub(super) enum Refused {
    /// With the requests and pictures that wait.
    Full {
        requests: usize,
        pictures: usize,
    },
    Closed,
}

impl Queue {
    /// At most `limit` requests wait.
    pub fn new(limit: usize) -> Queue {
        Queue { state: Mutex::default(), ready: Condvar::new(), limit }
    }

    /// Puts a request at the end; how many wait before it.
    pub fn push(&self, items: Vec<Item>, sink: Sink) -> Result<usize, Refused> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return Err(Refused::Closed);
        }
        // Those whose clients are gone hold no place.
        state.requests.retain(|pieces| pieces.iter().any(|piece| !piece.sink.is_abandoned()));
        let before = state.requests.len();
        if before >= self.limit {
            let pictures = state.requests.iter().map(VecDeque::len).sum();
            return Err(Refused::Full { requests: before, pictures });
        }
        let sink = Arc::new(sink);
        let piece = |(sample, item)| Piece { sample, item, sink: sink.clone() };
        state.requests.push_back(items.into_iter().enumerate().map(piece).collect());
        self.ready.notify_one();
        Ok(before)
    }

    /// The next pictures, one to `count`, as soon as there are any; none once the queue is closed and empty.
    pub fn take(&self, count: usize) -> Option<Vec<Piece>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut taken = Vec::new();
            while let Some(first) = state.requests.front_mut().filter(|_| taken.len() < count) {
                let some = first.len().min(count - taken.len());
                taken.extend(first.drain(..some));
                if first.is_empty() {
                    state.requests.pop_front();
                }
            }
            if !taken.is_empty() {
                return Some(taken);
            }
            if state.is_closed {
                return None;
            }
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Requests with pictures that no batch has taken yet.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests.len()
    }

    /// Nothing is accepted from now on; what waits is still given out.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).is_closed = true;
        self.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn items(count: usize) -> Vec<Item> {
        let item = |id: usize| Item {
            ids: vec![id as i32],
            to: None,
            noise: NoiseValues { z: vec![], eps: vec![] },
            sentence: 1.0,
            caption: String::new(),
            comment: String::new(),
        };
        (0..count).map(item).collect()
    }

    fn sink(metrics: &Arc<Metrics>) -> (Sink, UnboundedReceiver<Event>) {
        let (events, heard) = unbounded_channel();
        (Sink::new(events, Wanted { pngs: true, attention: false, review: false }, metrics.clone()), heard)
    }

    #[test]
    fn batches_are_filled_across_requests_in_their_order() {
        let (queue, metrics) = (Queue::new(3), Arc::new(Metrics::new()));
        let heard: Vec<_> = [3, 2, 4]
            .into_iter()
            .map(|count| {
                let (sink, heard) = sink(&metrics);
                queue.push(items(count), sink).unwrap();
                heard
            })
            .collect();
        let (refused, _heard) = sink(&metrics);
        assert_eq!(queue.push(items(1), refused), Err(Refused::Full { requests: 3, pictures: 9 }));
        let samples = |pieces: &[Piece]| pieces.iter().map(|piece| piece.sample).collect::<Vec<_>>();
        let first = queue.take(4).unwrap();
        assert_eq!((samples(&first), queue.len()), (vec![0, 1, 2, 0], 2));
        assert_eq!(samples(&queue.take(4).unwrap()), [1, 0, 1, 2]);
        assert_eq!(metrics.in_flight.load(Relaxed), 3);
        queue.close();
        let (late, _heard) = sink(&metrics);
        assert_eq!(queue.push(items(1), late), Err(Refused::Closed));
        assert_eq!(samples(&queue.take(4).unwrap()), [3]);
        assert!(queue.take(4).is_none());
        drop((first, heard));
        assert_eq!(metrics.in_flight.load(Relaxed), 0);
    }

    #[test]
    fn a_client_that_is_gone_holds_no_place() {
        let (queue, metrics) = (Queue::new(1), Arc::new(Metrics::new()));
        let (gone, heard) = sink(&metrics);
        queue.push(items(2), gone).unwrap();
        drop(heard);
        let (next, _heard) = sink(&metrics);
        assert_eq!(queue.push(items(1), next), Ok(0));
    }
}
