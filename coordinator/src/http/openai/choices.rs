//! Several requests behind one answer.

use std::sync::Arc;
use std::task::Poll;

use crate::access::Client;
use crate::core::Refusal;
use crate::request::Generate;
use crate::server::{Generation, Shared};
use crate::update::Update;

/// The choices of an answer that are not complete. Dropping them cancels what goes on.
pub(super) struct Choices {
    going: Vec<Option<Generation>>,
    /// Whose turn it is, so that a fast one does not keep the others from being heard.
    turn: usize,
}

impl Choices {
    /// Starts them all, or none.
    pub(super) fn start(
        shared: &Arc<Shared>,
        client: Client,
        asks: impl IntoIterator<Item = Generate>,
    ) -> Result<Self, Refusal> {
        // Where one is refused, those before it are cancelled by being dropped.
        let going = asks.into_iter().map(|ask| shared.generate(client, ask).map(Some)).collect::<Result<_, _>>()?;
        Ok(Self { going, turn: 0 })
    }

    /// The next update and the choice that it is of; `None` after the last of all.
    pub(super) async fn next(&mut self) -> Option<(usize, Update)> {
        std::future::poll_fn(|context| {
            let count = self.going.len();
            for index in (0..count).map(|offset| (self.turn + offset) % count) {
                let Some(generation) = &mut self.going[index] else { continue };
                let Poll::Ready(update) = generation.poll_next(context) else { continue };
                let update = update.unwrap_or_else(|| Update::Failed("the coordinator has ended".into()));
                if matches!(update, Update::Finished(_) | Update::Failed(_)) {
                    self.going[index] = None;
                }
                self.turn = index + 1;
                return Poll::Ready(Some((index, update)));
            }
            if self.going.iter().all(Option::is_none) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
    }
}
