//! embassy-net's TCP as a link: the conformance suite between two of its stacks, which a cable in memory joins.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use embassy_net::tcp::TcpSocket;
use embassy_net::{Config, Ipv4Address, Ipv4Cidr, Stack, StackResources, StaticConfigV4};
use embassy_net_driver_channel::driver::{HardwareAddress, LinkState};
use embassy_net_driver_channel::{RxRunner, State, TxRunner};
use syn1_core::testing::{Harness, LIMITS, StreamHarness, block_on, links, streams, yield_now};
use syn1_core::{Header, Link, Receive, Transmit};
use syn1_transport_tcp::{EmbassyLink, EmbassySocket};

type OwnLink = EmbassyLink<'static, 'static, Vec<u8>>;

/// Two stacks and what runs beside the tests.
struct Cable {
    here: Stack<'static>,
    there: Stack<'static>,
    port: u16,
    tasks: Tasks,
}

/// Futures that run for as long as the test does.
type Tasks = Rc<RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>>>;

const MTU: usize = 1514;
/// Bytes of a socket's buffer.
const BUFFER: usize = 1 << 17;

/// What the tests borrow lives for as long as the process: as on a microcontroller.
fn forever<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}

impl Cable {
    fn new(tasks: Tasks) -> Self {
        let mut ends = [1, 2].map(|number| {
            let state = forever(State::<MTU, 8, 8>::new());
            let address = HardwareAddress::Ethernet([2, 0, 0, 0, 0, number]);
            let (runner, device) = embassy_net_driver_channel::new(state, address);
            let (link, rx, tx) = runner.split();
            link.set_link_state(LinkState::Up);
            let address = Ipv4Cidr::new(Ipv4Address::new(10, 0, 0, number), 24);
            let config =
                Config::ipv4_static(StaticConfigV4 { address, gateway: None, dns_servers: Default::default() });
            let resources = forever(StackResources::<64>::new());
            let (stack, mut network) = embassy_net::new(device, config, resources, number.into());
            tasks.borrow_mut().push(Box::pin(async move { network.run().await }));
            Some((stack, rx, tx))
        });
        let (here, here_rx, here_tx) = ends[0].take().unwrap();
        let (there, there_rx, there_tx) = ends[1].take().unwrap();
        tasks.borrow_mut().push(Box::pin(carry(here_tx, there_rx)));
        tasks.borrow_mut().push(Box::pin(carry(there_tx, here_rx)));
        Self { here, there, port: 1000, tasks }
    }

    async fn sockets(&mut self) -> (TcpSocket<'static>, TcpSocket<'static>) {
        self.port += 1;
        // Room for what a stack sends before it waits for an acknowledgement, which comes after 10 ms at the latest.
        let socket = |stack| TcpSocket::new(stack, vec![0; BUFFER].leak(), vec![0; BUFFER].leak());
        let (mut a, mut b) = (socket(self.here), socket(self.there));
        let (accepted, connected) =
            syn1_core::testing::join(b.accept(self.port), a.connect((Ipv4Address::new(10, 0, 0, 2), self.port))).await;
        accepted.unwrap();
        connected.unwrap();
        (a, b)
    }

    /// A link over a socket, which is closed as firmware closes it when the link is gone.
    fn link(&self, socket: TcpSocket<'static>) -> OwnLink {
        let socket: *mut EmbassySocket<'static> = forever(EmbassySocket::new(socket));
        // SAFETY: the box below takes the socket back when the link, which is all that borrows it, has dropped its halves.
        let borrowed: &'static EmbassySocket<'static> = unsafe { &*socket };
        let longest = Header::control(LIMITS.max_payload).frame_len();
        let link = borrowed.link(vec![0; longest], vec![0; longest]);
        self.tasks.borrow_mut().push(Box::pin(async move {
            while !borrowed.is_left() {
                yield_now().await;
            }
            // SAFETY: nobody borrows it any more.
            let owned = unsafe { Box::from_raw(socket) };
            owned.close().await;
        }));
        link
    }
}

/// Frames from one end of a cable to the other.
async fn carry(mut from: TxRunner<'static, MTU>, mut to: RxRunner<'static, MTU>) {
    loop {
        let frame = poll_fn(|cx| from.poll_tx_buf(cx).map(|frame| frame.to_vec())).await;
        from.tx_done();
        poll_fn(|cx| to.poll_rx_buf(cx).map(|room| room[..frame.len()].copy_from_slice(&frame))).await;
        to.rx_done(frame.len());
    }
}

/// Runs a test to its end, and everything beside it meanwhile.
fn beside<F: Future>(tasks: Tasks, test: F) -> F::Output {
    let mut test = pin!(test);
    block_on(poll_fn(move |cx| {
        if let Poll::Ready(output) = test.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        let mut running = std::mem::take(&mut *tasks.borrow_mut());
        running.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        tasks.borrow_mut().append(&mut running);
        Poll::Pending
    }))
}

impl Harness for Cable {
    type Link = OwnLink;

    async fn pair(&mut self) -> (OwnLink, OwnLink) {
        let (a, b) = self.sockets().await;
        (self.link(a), self.link(b))
    }
}

impl StreamHarness for Cable {
    type Raw = Raw;

    async fn raw(&mut self) -> (Raw, OwnLink) {
        let (raw, link) = self.sockets().await;
        (Raw { socket: Some(raw), tasks: self.tasks.clone() }, self.link(link))
    }

    async fn write(raw: &mut Raw, bytes: &[u8]) {
        let socket = raw.socket.as_mut().unwrap();
        // Without flushing, which waits for the acknowledgement of every byte.
        embedded_io_async::Write::write_all(socket, bytes).await.unwrap();
    }
}

/// A bare socket that ends its stream when it is dropped.
struct Raw {
    socket: Option<TcpSocket<'static>>,
    tasks: Tasks,
}

impl Drop for Raw {
    fn drop(&mut self) {
        let socket = self.socket.take();
        self.tasks.borrow_mut().push(Box::pin(async move {
            if let Some(mut socket) = socket {
                socket.close();
                let _ = socket.flush().await;
            }
        }));
    }
}

#[test]
fn embassy_links_conform() {
    let tasks = Tasks::default();
    let mut cable = Cable::new(tasks.clone());
    beside(tasks, async {
        links(&mut cable).await;
        streams(&mut cable).await;
    });
}

#[test]
fn a_frame_does_not_wait_for_an_acknowledgement() {
    let tasks = Tasks::default();
    let mut cable = Cable::new(tasks.clone());
    beside(tasks, async {
        let (a, b) = cable.sockets().await;
        let (link, socket) = (cable.link(a), b);
        let (_rx, mut tx) = link.split();
        // The other end reads nothing at all; its stack acknowledges late, and the sender does not notice.
        for position in 0..20 {
            tx.send(&Header::acknowledge(1, 0, position), &[]).await.unwrap();
        }
        let (mut rx, _tx) = cable.link(socket).split();
        rx.set_limits(LIMITS);
        for position in 0..20 {
            assert_eq!(rx.recv().await.unwrap().header.position, position);
        }
    });
}
