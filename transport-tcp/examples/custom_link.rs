//! A transport of one's own, channels of messages, with the errors of streams, under the suite that every link must pass.
use syn1_core::testing::{Harness, block_on, links};
use syn1_core::{Frame, Header, Limits, Link, Receive, Transmit, encode_frame};
use syn1_transport_tcp::TcpError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The channel, the message that the last frame is lent from, and what the next one must obey.
struct Inbox(Receiver<Vec<u8>>, Vec<u8>, Limits);
impl Receive for Inbox {
    type Error = TcpError;
    /// Cancel-safe, as it must be: a message is taken out only to be handed over. `None` below is a frame to pass over.
    async fn recv(&mut self) -> Result<Frame<'_>, TcpError> {
        self.1 = self.0.recv().await.ok_or(TcpError::Closed)?;
        while let Ok(None) = Frame::from_message(&self.1, &self.2) {
            self.1 = self.0.recv().await.ok_or(TcpError::Closed)?;
        }
        Frame::from_message(&self.1, &self.2)?.ok_or(TcpError::Closed)
    }
    fn set_limits(&mut self, limits: Limits) {
        self.2 = limits;
    }
}

/// The channel is gone when a send was dropped: its frame is lost, and nothing can follow it.
struct Outbox(Option<Sender<Vec<u8>>>);
impl Transmit for Outbox {
    type Error = TcpError;
    async fn send(&mut self, header: &Header, payload: &[u8]) -> Result<(), TcpError> {
        let mut message = vec![0; header.frame_len()];
        encode_frame(header, payload, &mut message)?;
        let channel = self.0.take().ok_or(TcpError::Broken)?;
        channel.send(message).await.map_err(|_| TcpError::Closed)?;
        self.0 = Some(channel);
        Ok(())
    }
}

struct Channels(Inbox, Outbox);
impl Link for Channels {
    type Error = TcpError;
    type Rx = Inbox;
    type Tx = Outbox;
    fn split(self) -> (Inbox, Outbox) {
        (self.0, self.1)
    }
}

struct Pairs;
impl Harness for Pairs {
    type Link = Channels;
    async fn pair(&mut self) -> (Channels, Channels) {
        let ((a_out, b_in), (b_out, a_in)) = (channel(1), channel(1));
        let end = |tx, rx| Channels(Inbox(rx, Vec::new(), Limits::handshake()), Outbox(Some(tx)));
        (end(a_out, a_in), end(b_out, b_in))
    }
}

fn main() {
    block_on(links(&mut Pairs));
}
