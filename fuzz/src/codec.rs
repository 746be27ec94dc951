//! Codecs: what comes back is within the bounds of SPEC.md, section 3, the bytes are those of the naive definition, and no
//! payload panics or gives a value that is not finite.

use arbitrary::{Result, Unstructured};
use syn1_core::codec::{F16_MAX, Q4_GROUP, Q8_OVERHEAD, SIDE, choose, decode, encode, f16_to_f32, ids, q4_row_len};
use syn1_core::output::{full_decode, full_encode, logits_grid, top_decode, top_encode};
use syn1_core::{Codec, CodecError, encoded_len};

/// `cols u16 | k u16 | values f32...`
pub fn codec_roundtrip(data: &[u8]) {
    let _too_short = roundtrip(&mut Unstructured::new(data));
}

/// `codec u8 | cols u16 | vocab u16 | payload`
pub fn codec_hostile(data: &[u8]) {
    let _too_short = hostile(&mut Unstructured::new(data));
}

fn roundtrip(input: &mut Unstructured<'_>) -> Result<()> {
    let (cols, k): (u16, u16) = (input.arbitrary()?, input.arbitrary()?);
    let bytes = input.peek_bytes(input.len()).unwrap_or_default();
    let values: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let cols = cols.clamp(1, values.len().clamp(1, 4096) as u16);
    let rows = values.len() / usize::from(cols);
    let values = &values[..rows * usize::from(cols)];
    for wanted in [Codec::F32, Codec::F16, Codec::Q8, Codec::Q4] {
        activation(wanted, values, cols);
    }
    logits(values, k);
    Ok(())
}

fn activation(wanted: Codec, values: &[f32], cols: u16) {
    let mut payload = vec![0xee; 4 * values.len() + Q8_OVERHEAD * (values.len() / usize::from(cols))];
    let codec = match choose(wanted, values) {
        Ok(codec) => codec,
        Err(error) => {
            assert_eq!(error, CodecError::NotFinite);
            assert!(values.iter().any(|x| !x.is_finite()));
            assert_eq!(encode(wanted, values, cols, &mut payload), Err(error));
            return;
        }
    };
    let fits = values.iter().all(|x| x.abs() <= F16_MAX);
    assert_eq!(codec, if fits { wanted } else { Codec::F32 });
    let len = encode(codec, values, cols, &mut payload).expect("a chosen codec can carry the values");
    let rows = (values.len() / usize::from(cols)) as u16;
    assert_eq!(Some(len as u32), encoded_len(codec, rows, cols));
    let mut back = vec![f32::NAN; values.len()];
    decode(codec, &payload[..len], rows, cols, &mut back).expect("what was encoded can be decoded");
    let width = usize::from(cols);
    for (at, (row, back)) in values.chunks(width).zip(back.chunks(width)).enumerate() {
        match codec {
            Codec::F32 => assert!(row.iter().zip(back).all(|(x, y)| x.to_bits() == y.to_bits())),
            Codec::F16 => assert!(row.iter().zip(back).all(|(x, y)| binary16(*x) == f64::from(*y))),
            Codec::Q8 => q8(row, back, &payload[at * (Q8_OVERHEAD + width)..][..Q8_OVERHEAD + width]),
            _ => q4(row, back, &payload[at * q4_row_len(cols)..][..q4_row_len(cols)]),
        }
    }
}

/// Q8 against its definition (sort, divide, round each value) and its error bound.
fn q8(row: &[f32], back: &[f32], bytes: &[u8]) {
    let mut columns: Vec<usize> = (0..row.len()).collect();
    columns.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()).then(a.cmp(&b)));
    let rest = columns.get(SIDE).map_or(0.0, |&column| row[column].abs());
    let scale = if rest / 127.0 >= f32::MIN_POSITIVE { rest / 127.0 } else { 0.0 };
    let side = &columns[..SIDE.min(row.len())];
    assert_eq!(bytes[..4], scale.to_le_bytes());
    let bound = (f64::from(rest) / 254.0 * 1.000_04).max(127.0 * f64::from(f32::MIN_POSITIVE));
    for (column, (&x, &y)) in row.iter().zip(back).enumerate() {
        let q = bytes[Q8_OVERHEAD + column].cast_signed();
        if side.contains(&column) {
            assert_eq!((q, f64::from(y)), (0, binary16(x)));
        } else {
            let naive = if scale > 0.0 { (x * (1.0 / scale)).round_ties_even() as i8 } else { 0 };
            assert_eq!((q, y), (naive, f32::from(naive) * scale));
            assert!((f64::from(x) - f64::from(y)).abs() <= bound, "{x} became {y}");
        }
    }
}

/// Q4 against its definition and its error bound.
fn q4(row: &[f32], back: &[f32], bytes: &[u8]) {
    let mut columns: Vec<usize> = (0..row.len()).collect();
    columns.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()).then(a.cmp(&b)));
    let side = &columns[..SIDE.min(row.len())];
    let groups = row.len().div_ceil(Q4_GROUP);
    let (scales, body) = bytes[4 * SIDE..].split_at(2 * groups);
    for (group, bits) in scales.as_chunks().0.iter().enumerate() {
        let bits = u16::from_le_bytes(*bits);
        let columns = group * Q4_GROUP..row.len().min((group + 1) * Q4_GROUP);
        let rest = columns.clone().filter(|column| !side.contains(column)).map(|column| row[column].abs());
        let largest = rest.fold(0.0, f32::max);
        let scale = f16_to_f32(bits);
        assert!(scale >= largest / 7.0, "the scale holds its group");
        assert!(bits == 0 || f16_to_f32(bits - 1) < largest / 7.0, "and is the smallest that does");
        let bound = f64::from(largest) / 14.0 * 1.001 + 2f64.powi(-25);
        for column in columns {
            let (x, y) = (row[column], back[column]);
            let half = body[column / 2] >> (4 * (column % 2)) & 0x0f;
            let q = (half << 4).cast_signed() >> 4;
            if side.contains(&column) {
                assert_eq!((q, f64::from(y)), (0, binary16(x)));
            } else {
                let naive = if scale > 0.0 { (x * (1.0 / scale)).round_ties_even() as i8 } else { 0 };
                assert_eq!((q, y), (naive, f32::from(naive) * scale));
                assert!((f64::from(x) - f64::from(y)).abs() <= bound, "{x} became {y}");
            }
        }
    }
}

/// The binary16 nearest to `x`, ties to even, in f64.
fn binary16(x: f32) -> f64 {
    let exponent = (f64::from(x).to_bits() >> 52 & 0x7ff) as i32 - 1023;
    let unit = 2f64.powi((exponent - 10).max(-24));
    (f64::from(x) / unit).round_ties_even() * unit
}

/// Outputs against a sort.
fn logits(logits: &[f32], k: u16) {
    if logits.is_empty() {
        return;
    }
    let (vocab, k) = (logits.len() as u32, k.clamp(1, logits.len().min(512) as u16));
    let mut payload = vec![0xee; 8 + 8 * usize::from(k)];
    let sound = logits.iter().all(|x| *x < f32::INFINITY) && logits.iter().any(|x| *x > f32::NEG_INFINITY);
    assert_eq!(top_encode(logits, k, &mut payload).is_ok(), sound);
    let (rows, cols) = logits_grid(vocab);
    let mut full = vec![0xee; 4 * usize::from(rows) * usize::from(cols)];
    assert_eq!(full_encode(logits, &mut full).is_ok(), sound);
    if sound {
        let mut sorted: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        sorted.sort_by(|a, b| b.1.partial_cmp(&a.1).expect("no NaN").then(a.0.cmp(&b.0)));
        sorted.truncate(k.into());
        // A sum beyond binary32 is no number that a row may carry, and is refused.
        if let Ok(mut rows) = top_decode(&payload, k, vocab) {
            let row = rows.next().expect("one row");
            assert!(row.entries().eq(sorted));
        }
        let mut back = vec![f32::NAN; logits.len()];
        full_decode(&full, &mut back).expect("what was encoded can be decoded");
        assert!(back.iter().zip(logits).all(|(x, y)| x.to_bits() == y.to_bits()));
    }
}

fn hostile(input: &mut Unstructured<'_>) -> Result<()> {
    let (codec, cols, vocab): (u8, u16, u16) = (input.arbitrary()?, input.arbitrary()?, input.arbitrary()?);
    let payload = input.peek_bytes(input.len()).unwrap_or_default();
    let Some(codec) = Codec::from_byte(codec) else { return Ok(()) };
    let row = encoded_len(codec, 1, cols).unwrap_or(1).max(1) as usize;
    // Whole rows, so that most inputs get past the length, and the bytes as they are.
    let whole = &payload[..payload.len() - payload.len() % row];
    for payload in [whole, payload] {
        let rows = u16::try_from(payload.len() / row).unwrap_or(u16::MAX);
        let mut out = vec![0.0; usize::from(rows) * usize::from(cols)];
        if decode(codec, payload, rows, cols, &mut out).is_ok() {
            assert!(out.iter().all(|x| x.is_finite()));
        }
        if let Ok(rows) = top_decode(payload, cols, vocab.into()) {
            for row in rows {
                assert!(row.log_sum_exp().is_finite());
                assert!(row.entries().all(|(id, logit)| id < vocab.into() && logit < f32::INFINITY));
                assert!(row.entries().is_sorted_by(|a, b| a.1 > b.1 || (a.1 == b.1 && a.0 < b.0)));
            }
        }
        let mut logits = vec![0.0; vocab.into()];
        if full_decode(payload, &mut logits).is_ok() {
            assert!(logits.iter().all(|x| *x < f32::INFINITY));
        }
        assert_eq!(ids(payload).count(), payload.len() / 4);
    }
    Ok(())
}
