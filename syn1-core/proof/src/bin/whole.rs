//! Everything that the crate has: header, decoder, encoder, codecs, forms, outputs, control messages, session.
#![no_std]
#![no_main]

use core::hint::black_box;

use syn1_core::codec::{choose, decode, encode, encode_ids, ids};
use syn1_core::control::{Control, Reason, Role};
use syn1_core::output::{full_decode, full_encode, top_decode, top_encode};
use syn1_core::{
    Codec, CodecSet, Decoder, Event, Flags, Form, Frame, Header, Identity, Inbound, Limits, Millis, Outbound, Place,
    Session, SessionConfig, Verdict, encode_control, encode_frame,
};
use syn1_proof::planted;

/// The linker starts here; everything that it reaches is measured.
#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    let config = SessionConfig {
        role: black_box(Role::Node),
        agent: "proof",
        codecs: black_box(CodecSet::ACTIVATIONS),
        flags: black_box(Flags::NONE),
        max_payload: black_box(1024),
        max_rows: black_box(4),
        credit: black_box(4),
        model: black_box([0; 32]),
        prove: black_box(true),
    };
    let mut session = Session::new(config, Keyed, black_box([0; 32]), black_box(Millis(0)));
    let mut decoder = Decoder::new([0; 1048], Limits::handshake());
    let (mut values, mut payload, mut bytes) = ([0.0; 64], [0; 512], [0; 1048]);
    let (mut sender, mut receiver) = (Outbound::new([0.0; 32], [0; 512]), Inbound::new([0.0; 16]));
    loop {
        black_box(receive(&mut session, &mut decoder, black_box(&[0; 64]), black_box(Millis(0))));
        black_box(timers(&mut session, black_box(Millis(0)), &mut bytes));
        black_box(flow(&mut session));
        black_box(goodbye(&mut session, black_box("the end"), &mut bytes));
        black_box(message(black_box(&[0; 24]), &black_box(Limits::handshake())));
        black_box(control(black_box(&[0; 64]), &mut bytes));
        black_box(finish(&mut decoder));
        for codec in [Codec::F32, Codec::F16, Codec::Q8, Codec::Q4, Codec::Ids] {
            black_box(send(black_box(codec), black_box(&values), &mut payload, &mut bytes));
            black_box(read(black_box(codec), black_box(&bytes), black_box(16), &mut values));
        }
        let form = Form::new(black_box(Codec::Q8), black_box(Flags::DELTA));
        let place = black_box(Place { request: 1, epoch: 0, position: 0 });
        let header = form.and_then(|form| shape(&mut sender, form, place, black_box(&values), &mut bytes));
        black_box(header.and_then(|header| unshape(&mut receiver, black_box(header), &bytes, &mut values)));
        black_box(write_output(black_box(&values), black_box(4), &mut bytes));
        black_box(read_output(black_box(&bytes), black_box(4), &mut values));
        black_box(tokens(black_box(&[1, 2]), &mut bytes));
        black_box(planted(black_box(&[0; 4]), black_box(0)));
    }
}

/// An identity of which the optimiser knows nothing; its cryptography would not be this crate's.
struct Keyed;

impl Identity for Keyed {
    fn key(&self) -> [u8; 32] {
        black_box([1; 32])
    }

    fn sign(&self, _: &[u8]) -> [u8; 64] {
        black_box([0; 64])
    }

    fn verify(&self, _: &[u8; 32], _: &[u8], _: &[u8; 64]) -> Verdict {
        black_box(Verdict::Valid)
    }
}

#[inline(never)]
fn receive(session: &mut Session<Keyed>, decoder: &mut Decoder<[u8; 1048]>, bytes: &[u8], now: Millis) -> Option<u32> {
    for (to, from) in decoder.spare().iter_mut().zip(bytes) {
        *to = *from;
    }
    decoder.commit(bytes.len()).ok()?;
    let frame = decoder.next().ok()??;
    let heard = session.handle(now, frame);
    if let Ok(Event::Control(Control::Model(model))) = black_box(&heard) {
        session.set_model(model.width, model.vocab);
    }
    let reason = heard.err().map_or(0, |fatal| fatal.reason() as u32);
    decoder.set_limits(session.limits());
    Some(reason)
}

#[inline(never)]
fn flow(session: &mut Session<Keyed>) -> bool {
    session.done();
    session.take_credit() && session.peer().is_some_and(|peer| peer.proven)
}

#[inline(never)]
fn goodbye(session: &mut Session<Keyed>, text: &str, out: &mut [u8]) -> Option<usize> {
    session.leave(black_box(Reason::Done), text, out)
}

#[inline(never)]
fn shape(
    sender: &mut Outbound<[f32; 32], [u8; 512]>,
    form: Form,
    place: Place,
    values: &[f32],
    out: &mut [u8],
) -> Option<Header> {
    sender.encode(form, place, black_box(false), values, 16, out).ok()
}

#[inline(never)]
fn unshape(receiver: &mut Inbound<[f32; 16]>, header: Header, payload: &[u8], out: &mut [f32]) -> Option<()> {
    receiver.decode(&Frame { header, payload }, out).ok()
}

#[inline(never)]
fn timers(session: &mut Session<Keyed>, now: Millis, out: &mut [u8]) -> Option<usize> {
    session.handle_timeout(now.max(session.poll_timeout())).ok()?;
    session.poll_transmit(out)
}

#[inline(never)]
fn message(bytes: &[u8], limits: &Limits) -> Option<u32> {
    Frame::from_message(bytes, limits).ok()?.map(|frame| frame.header.request)
}

#[inline(never)]
fn control(bytes: &[u8], out: &mut [u8]) -> Option<usize> {
    let message = Control::decode(bytes).ok()?;
    encode_control(&message, out).ok().map(<[u8]>::len)
}

#[inline(never)]
fn finish(decoder: &mut Decoder<[u8; 1048]>) -> bool {
    decoder.finish().is_ok()
}

#[inline(never)]
fn send(wanted: Codec, values: &[f32], payload: &mut [u8], out: &mut [u8]) -> Option<usize> {
    let codec = choose(wanted, values).ok()?;
    let len = encode(codec, values, 16, payload).ok()?;
    let header = Header::activation(1, 2, 3, codec, 4, 16)?;
    encode_frame(&header, payload.get(..len)?, out).ok().map(<[u8]>::len)
}

#[inline(never)]
fn read(codec: Codec, payload: &[u8], cols: u16, out: &mut [f32]) -> bool {
    decode(codec, payload, 4, cols, out).is_ok()
}

#[inline(never)]
fn write_output(logits: &[f32], k: u16, out: &mut [u8]) -> Option<usize> {
    Some(top_encode(logits, k, out).ok()? + full_encode(logits, out).ok()?)
}

#[inline(never)]
fn read_output(payload: &[u8], k: u16, logits: &mut [f32]) -> Option<f32> {
    full_decode(payload, logits).ok()?;
    let row = top_decode(payload, k, 1000).ok()?.next()?;
    Some(row.log_sum_exp() + row.entries().map(|(id, logit)| logit + id as f32).sum::<f32>())
}

#[inline(never)]
fn tokens(tokens: &[u32], out: &mut [u8]) -> u32 {
    let len = encode_ids(tokens, out);
    ids(out.get(..len).unwrap_or_default()).sum()
}
