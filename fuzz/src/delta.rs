//! Two ends of one request's activations with loss, repetition, reordering, damage, rollbacks and new epochs between them:
//! whatever is decoded from an undamaged frame is what its sender reconstructed, bit for bit.

use std::collections::VecDeque;

use arbitrary::{Result, Unstructured};
use syn1_core::activation::{Inbound, Outbound, Place};
use syn1_core::{CodecError, Flags, Form, Frame, Header};

/// `cols u8 | steps`, a step being `what u8` and what it needs.
pub fn delta(data: &[u8]) {
    let _too_short = run(&mut Unstructured::new(data));
}

struct Sent {
    header: Header,
    payload: Vec<u8>,
    /// What a receiver that missed nothing makes of it; of a damaged frame nothing is known.
    rows: Option<Vec<u32>>,
}

struct Ends {
    cols: u16,
    place: Place,
    sender: Outbound<Vec<f32>, Vec<u8>>,
    /// Gets every frame.
    mirror: Inbound<Vec<f32>>,
    receiver: Inbound<Vec<f32>>,
    flying: VecDeque<Sent>,
}

fn run(input: &mut Unstructured<'_>) -> Result<()> {
    let cols = u16::from(input.arbitrary::<u8>()? % 80 + 1);
    let width = usize::from(cols);
    let mut ends = Ends {
        cols,
        place: Place { request: 1, epoch: 0, position: 0 },
        sender: Outbound::new(vec![0.0; 2 * width], vec![0; 4 * (width + 36)]),
        mirror: Inbound::new(vec![0.0; width]),
        receiver: Inbound::new(vec![0.0; width]),
        flying: VecDeque::new(),
    };
    while !input.is_empty() {
        ends.step(input)?;
    }
    while let Some(sent) = ends.flying.pop_front() {
        ends.receive(&sent);
    }
    Ok(())
}

impl Ends {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let what: u8 = input.arbitrary()?;
        let by = what >> 4;
        match what & 15 {
            0..=5 => {
                self.send(["q8+delta", "q4+delta", "q8+delta+compressed"][usize::from(by % 3)], by / 3 % 4 + 1, input)?
            }
            6 => self.send(["q8", "f16", "f32", "q8+compressed"][usize::from(by % 4)], 1, input)?,
            7..=9 => {
                if let Some(sent) = self.flying.pop_front() {
                    self.receive(&sent);
                }
            }
            10 => drop(self.flying.pop_front()),
            11 => {
                if let Some(sent) = self.flying.front() {
                    let again = Sent { payload: sent.payload.clone(), rows: sent.rows.clone(), ..*sent };
                    self.flying.push_back(again);
                }
            }
            12 => self.flying.rotate_left(usize::from(by).min(self.flying.len())),
            13 => {
                let at: u16 = input.arbitrary()?;
                if let Some(sent) = self.flying.front_mut() {
                    let at = usize::from(at) % sent.payload.len();
                    sent.payload[at] ^= 1 << (by % 8);
                    sent.rows = None;
                }
            }
            14 => self.place.position = self.place.position.saturating_sub(by.into()),
            _ => self.place.epoch = self.place.epoch.wrapping_add(by),
        }
        Ok(())
    }

    fn send(&mut self, form: &str, rows: u8, input: &mut Unstructured<'_>) -> Result<()> {
        let count = usize::from(rows) * usize::from(self.cols);
        // What the input lacks is drawn from a fixed pattern, so that short inputs have rows too.
        let given = input.bytes(count.min(input.len()))?;
        let pattern = (0..).map(|at: u32| (at * 37 % 251) as u8);
        let values: Vec<f32> = given.iter().copied().chain(pattern).take(count).map(value).collect();
        let form = Form::from_name(form).expect("a form that exists");
        let mut payload = vec![0xee; 4 * count + 400];
        let header = self.sender.encode(form, self.place, false, &values, self.cols, &mut payload);
        let header = header.expect("finite rows and large buffers");
        payload.truncate(header.payload_len as usize);
        let rows = read(&mut self.mirror, &header, &payload).expect("who misses nothing can read everything");
        if header.flags.contains(Flags::DELTA) {
            assert!(payload.len() as u32 <= form.max_len(header.rows, header.cols).expect("a short frame"));
        }
        self.place.position += u32::from(header.rows);
        self.flying.push_back(Sent { header, payload, rows: Some(rows) });
        Ok(())
    }

    fn receive(&mut self, sent: &Sent) {
        match (read(&mut self.receiver, &sent.header, &sent.payload), &sent.rows) {
            (Ok(read), Some(rows)) => assert_eq!(&read, rows, "the ends are apart, silently"),
            (Ok(read), None) => assert!(read.iter().all(|bits| f32::from_bits(*bits).is_finite())),
            (Err(error), Some(_)) => assert_eq!(error, CodecError::Reference),
            (Err(_), None) => {}
        }
    }
}

fn read(end: &mut Inbound<Vec<f32>>, header: &Header, payload: &[u8]) -> std::result::Result<Vec<u32>, CodecError> {
    let mut out = vec![f32::NAN; usize::from(header.rows) * usize::from(header.cols)];
    end.decode(&Frame { header: *header, payload }, &mut out)?;
    Ok(out.iter().map(|x| x.to_bits()).collect())
}

/// Small numbers, a few massive ones, and one that binary16 can't hold.
fn value(byte: u8) -> f32 {
    match byte {
        0x80 => 1e5,
        0x81..=0x83 => 60_000.0,
        0x84..=0x86 => -60_000.0,
        _ => f32::from(byte.cast_signed()) / 16.0,
    }
}
