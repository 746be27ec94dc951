//! Frames with flags: delta, compressed and predicted, those that are accepted and those that are refused.

use syn1_core::activation::{Outbound, Place};
use syn1_core::{Codec, Flags, Form, Header, Limits};

use crate::cases::{LIMITS, ROW, activation_bytes, encoded, top_bytes};
use crate::describe::floats;
use crate::vector::Vector;

pub(crate) fn accepted() -> Vec<Vector> {
    let mut vectors = vec![
        alone(
            "activation-q8-delta",
            "A key row, and two more of which each adds to the one before.",
            "q8+delta",
            12,
            &drift(36),
        ),
        alone("activation-q4-delta", "The same in q4.", "q4+delta", 12, &drift(36)),
        alone(
            "activation-q8-compressed",
            "Rows that come near to three of the tables.",
            "q8+compressed",
            64,
            &shapes(64),
        ),
        alone(
            "activation-q8-compressed-odd",
            "An odd number of columns: of each row's lower halves one is unused.",
            "q8+compressed",
            61,
            &shapes(61),
        ),
        alone("activation-q8-compressed-zeros", "A row of zeros.", "q8+compressed", 64, &[0.0; 64]),
        alone("activation-q8-delta-compressed", "Residuals, compressed.", "q8+delta+compressed", 64, &steps()),
        alone("activation-q8-not-shorter", "Compression does not pay, and is left away.", "q8+compressed", 10, &ROW),
        alone("activation-delta-large", "A value that binary16 can't hold: f32, and no delta.", "q8+delta", 10, &LARGE),
    ];
    for form in ["q8+delta", "q4+delta", "q8+delta+compressed"] {
        let (first, second) = pair(form, &steps());
        let name = format!("activation-{}-next", form.replace('+', "-"));
        let what = "A frame that goes on from the row of the one before.";
        vectors.push(vector(&name, what, 64, &steps()[64..], second).behind(first));
    }
    let source = vec![floats("sent", &ROW)];
    let predicted = marked(activation_bytes(Codec::Q8, 10, &ROW));
    let what = "A row of a token that is not accepted yet.";
    vectors.push(Vector::new("activation-predicted", what, ALL, source, predicted));
    let token = marked(encoded(&Header::tokens(2, 3, 4, 1), &[1, 0, 0, 0]));
    vectors.push(Vector::new("tokens-predicted", "A token that is not accepted yet.", ALL, Vec::new(), token));
    let logits = [1.0, 2.0, 3.0, 4.0, 5.0];
    let output = marked(top_bytes(5, 2, &logits));
    let what = "The answer to a predicted row.";
    vectors.push(Vector::new("output-predicted", what, ALL, vec![floats("logits", &logits)], output));
    vectors
}

pub(crate) fn refused() -> Vec<Vector> {
    let (first, second) = pair("q8+delta", &shapes(64));
    let plain = || activation_bytes(Codec::Q8, 10, &ROW);
    let q4 = || activation_bytes(Codec::Q4, 10, &ROW);
    let f16 = || activation_bytes(Codec::F16, 10, &ROW);
    let squeezed = || frame("q8+compressed", 0, 61, &shapes(61));
    let len = squeezed().len();
    let (fixed, shape) = (3 * (36 + 1 + 31) + 10, 3 * (36 + 61));
    let refused = |name: &str, what: &str, cols: u16, bytes: Vec<u8>| {
        Vector::new(&format!("refused-{name}"), what, limits(cols), Vec::new(), bytes)
    };
    let behind = |name: &str, what: &str, before: &[u8], bytes: &[u8]| {
        refused(name, what, 64, bytes.to_vec()).behind(before.to_vec())
    };
    let resized = |len: u32| {
        let mut bytes = with(squeezed(), 16, &len.to_le_bytes());
        bytes.resize(24 + len as usize, 0);
        bytes
    };
    let other = frame("q8+delta", 0, 64, &shapes(64)[64..128]);
    vec![
        refused("delta-f16", "f16 has no delta.", 10, with(f16(), 5, &[4])),
        refused("compressed-q4", "q4 is not compressed.", 10, with(q4(), 5, &[3])),
        refused("delta-length", "Delta of a plain frame's length.", 10, with(plain(), 5, &[5])),
        refused("compressed-length-plain", "Compressed, and as long as plain.", 61, resized(shape)),
        refused("compressed-length-short", "Shorter than what stands in front of the stream.", 61, resized(fixed - 1)),
        refused("delta-no-reference", "A frame that goes on, without one before.", 64, second.clone()),
        behind("delta-lost", "The frame before was lost.", &first, &moved(&second, 8, 1)),
        behind("delta-repeated", "The frame stands where the one before does.", &first, &moved(&second, 8, -1)),
        behind("delta-epoch", "Another epoch.", &first, &moved(&second, 7, 1)),
        behind("delta-request", "Another request.", &first, &moved(&second, 12, 1)),
        behind("delta-content", "The row before is another one.", &other, &second),
        behind("delta-plain", "The frame before was not delta.", &frame("q8", 0, 64, &shapes(64)[..64]), &second),
        behind("delta-check", "A bit of the check.", &first, &moved(&second, 24, 1)),
        refused("delta-check-key", "A key row with a check.", 64, moved(&first, 24, 1)),
        refused("delta-weight", "A weight of 129.", 64, with(first.clone(), 28, &[129])),
        refused("delta-minus-128", "A residual of -128.", 64, with(first.clone(), 24 + 5 + 40, &[0x80])),
        refused("compressed-table", "Table 16.", 61, with(squeezed(), 24 + 109, &[16])),
        refused("compressed-state", "A state below 4096.", 61, with(squeezed(), 24 + fixed as usize - 10, &[0, 0, 0])),
        refused("compressed-stream", "A spoilt byte of the stream.", 61, moved(&squeezed(), len - 1, 1)),
        refused("compressed-cut", "The stream lacks its last byte.", 61, resized(len as u32 - 25)),
        refused("compressed-longer", "A byte behind the stream.", 61, resized(len as u32 - 23)),
        refused(
            "compressed-padding",
            "The unused half of a row's lower halves.",
            61,
            with(squeezed(), 24 + 111 + 30, &[0xf0]),
        ),
        refused("compressed-scale", "A negative scale.", 61, with(squeezed(), 24 + 3, &[0xbf])),
        refused("compressed-index", "A column that the row does not have.", 61, with(squeezed(), 24 + 18, &[61, 0])),
    ]
}

/// One frame at position 7 without another before it.
fn alone(name: &str, what: &str, form: &str, cols: u16, values: &[f32]) -> Vector {
    vector(name, what, cols, values, frame(form, 7, cols, values))
}

fn vector(name: &str, what: &str, cols: u16, values: &[f32], bytes: Vec<u8>) -> Vector {
    let source = values.chunks(cols.into()).map(|row| floats("sent", row)).collect();
    Vector::new(name, what, limits(cols), source, bytes)
}

/// A frame that begins anew.
fn frame(form: &str, position: u32, cols: u16, values: &[f32]) -> Vec<u8> {
    sent(&mut sender(cols), form, position, cols, values)
}

/// A frame of the first of rows of 64 columns, and one of the others that goes on from it.
fn pair(form: &str, values: &[f32]) -> (Vec<u8>, Vec<u8>) {
    let mut sender = sender(64);
    let first = sent(&mut sender, form, 0, 64, &values[..64]);
    (first, sent(&mut sender, form, 1, 64, &values[64..]))
}

fn sender(cols: u16) -> Outbound<Vec<f32>, Vec<u8>> {
    Outbound::new(vec![0.0; 2 * usize::from(cols)], vec![0; 4096])
}

fn sent(sender: &mut Outbound<Vec<f32>, Vec<u8>>, form: &str, position: u32, cols: u16, values: &[f32]) -> Vec<u8> {
    let form = Form::from_name(form).unwrap();
    let mut payload = vec![0; 4096];
    let place = Place { request: 2, epoch: 3, position };
    let header = sender.encode(form, place, false, values, cols, &mut payload).unwrap();
    encoded(&header, &payload[..header.payload_len as usize])
}

const ALL: Limits = Limits { flags: Flags::NEGOTIABLE, ..LIMITS };

const fn limits(cols: u16) -> Limits {
    Limits { width: cols, ..ALL }
}

fn marked(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[5] |= Flags::PREDICTED.bits();
    bytes
}

fn with(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

fn moved(bytes: &[u8], at: usize, by: i8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = bytes[at].wrapping_add_signed(by);
    bytes
}

/// Rows of 12 columns of which each resembles the one before.
fn drift(count: u16) -> Vec<f32> {
    (0..count).map(|at| f32::from((at % 12) * 7 % 12) - 5.5 + f32::from(at / 12) * f32::from(at % 5) / 8.0).collect()
}

/// Three rows of which each adds something steep to the one before.
fn steps() -> Vec<f32> {
    let mut rows: Vec<f32> = Vec::new();
    for (row, factor) in [(0, 29), (1, 13), (2, 51)] {
        for column in 0..64u16 {
            let x = f32::from(column * factor % 64) / 32.0 - 1.0;
            let before = if row > 0 { rows[rows.len() - 64] } else { 0.0 };
            rows.push(before + x * x * x * x * x * x * x);
        }
    }
    rows
}

/// Three rows: steep, less steep, and flat but for a slow drift of the second.
fn shapes(cols: u16) -> Vec<f32> {
    let value = |row: u16, column: u16| {
        let x = f32::from(column * 29 % 64) / 32.0 - 1.0;
        match row {
            0 => x * x * x * x * x,
            1 => x * x * x + x / 16.0,
            _ => x * x * x + f32::from(column % 3) / 64.0,
        }
    };
    (0..3).flat_map(|row| (0..cols).map(move |column| value(row, column))).collect()
}

const LARGE: [f32; 10] = [1.0, -2.0, 0.5, 4.0, 65505.0, -0.25, 8.0, 16.0, -32.0, 64.0];
