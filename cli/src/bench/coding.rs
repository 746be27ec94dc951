//! Activations through a form and back, row by row as decoding sends them, with what that costs.

use std::time::Instant;

use anyhow::{Context, Result};
use syn1_core::activation::{Inbound, Outbound, Place};
use syn1_core::{Codec, Form, Frame};

use super::median;

/// One boundary in one form, and what passed through it.
pub(super) struct Coding {
    form: Form,
    width: usize,
    outbound: Outbound<Vec<f32>, Vec<u8>>,
    inbound: Inbound<Vec<f32>>,
    payload: Vec<u8>,
    /// Counts passes: each is a request of its own.
    request: u32,
    bytes: u64,
    rows: u64,
    signal: f64,
    noise: f64,
    worst_db: f64,
    encode_ns: Vec<f64>,
    decode_ns: Vec<f64>,
}

/// What a form costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) bits_per_element: f64,
    /// Signal to quantization noise over all rows, decibels; infinite where nothing is lost.
    pub(super) sqnr_db: f64,
    /// That of the worst row.
    pub(super) worst_row_db: f64,
    pub(super) encode_ns: f64,
    pub(super) decode_ns: f64,
}

impl Coding {
    pub(super) fn new(form: Form, width: usize) -> Self {
        let longest = form.max_len(1, width as u16).max(Form::plain(Codec::F32).max_len(1, width as u16));
        let payload = vec![0; longest.unwrap_or(0) as usize];
        Self {
            form,
            width,
            outbound: Outbound::new(vec![0.0; 2 * width], payload.clone()),
            inbound: Inbound::new(vec![0.0; width]),
            payload,
            request: 0,
            bytes: 0,
            rows: 0,
            signal: 0.0,
            noise: 0.0,
            worst_db: f64::INFINITY,
            encode_ns: Vec::new(),
            decode_ns: Vec::new(),
        }
    }

    /// The rows of one pass as they come out at the other end.
    pub(super) fn through(&mut self, rows: &[f32]) -> Result<Vec<f32>> {
        self.request += 1;
        let mut back = vec![0.0; rows.len()];
        let (mut encoding, mut decoding) = (Vec::new(), Vec::new());
        let pairs = rows.chunks_exact(self.width).zip(back.chunks_exact_mut(self.width));
        for (position, (row, out)) in (0..).zip(pairs) {
            let place = Place { request: self.request, epoch: 1, position };
            let begun = Instant::now();
            let cols = self.width as u16;
            let header = self.outbound.encode(self.form, place, false, row, cols, &mut self.payload)?;
            let between = Instant::now();
            let payload = self.payload.get(..header.payload_len as usize).context("a payload longer than its bound")?;
            self.inbound.decode(&Frame { header, payload }, out)?;
            decoding.push(between.elapsed().as_nanos() as f64);
            encoding.push((between - begun).as_nanos() as f64);
            self.bytes += u64::from(header.payload_len);
            self.rows += 1;
            self.compare(row, out);
        }
        self.encode_ns.push(median(encoding));
        self.decode_ns.push(median(decoding));
        Ok(back)
    }

    fn compare(&mut self, row: &[f32], back: &[f32]) {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let signal: f64 = row.iter().map(|x| square(*x)).sum();
        let noise: f64 = row.iter().zip(back).map(|(x, y)| square(x - y)).sum();
        self.signal += signal;
        self.noise += noise;
        self.worst_db = self.worst_db.min(decibels(signal, noise));
    }

    pub(super) fn figures(&self) -> Figures {
        Figures {
            bits_per_element: self.bytes as f64 * 8.0 / (self.rows as f64 * self.width as f64),
            sqnr_db: decibels(self.signal, self.noise),
            worst_row_db: self.worst_db,
            encode_ns: median(self.encode_ns.clone()),
            decode_ns: median(self.decode_ns.clone()),
        }
    }
}

fn decibels(signal: f64, noise: f64) -> f64 {
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}
