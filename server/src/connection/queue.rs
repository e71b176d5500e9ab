//! An idle connection's place in the queue of those that go to a sibling.

use std::pin::Pin;
use std::task::{Context, Poll};

use crate::replica::Replica;
use crate::transfer_queue::Ticket;

/// An idle connection's place in the queue of those that go to a sibling.
pub(super) struct Queue<'a> {
    replica: &'a Replica,
    place: Option<Pin<Box<dyn Future<Output = Ticket> + Send>>>,
}

impl<'a> Queue<'a> {
    pub(super) fn new(replica: &'a Replica) -> Self {
        Self { replica, place: None }
    }

    pub(super) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Ticket> {
        self.place.get_or_insert_with(|| Box::pin(self.replica.outbox.turn())).as_mut().poll(context)
    }

    pub(super) fn leave(&mut self) {
        self.place = None;
    }
}
