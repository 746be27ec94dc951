//! What people would otherwise send activations with, and the SYN1 codecs, behind one pair of functions each.
//!
//! `cargo bench` measures them in one run and prints a table. Everyone writes into a buffer that is kept between calls and
//! reads into values that are kept, as far as its library lets it; SYN1 writes and checks whole frames.

mod activation;
mod others;
mod syn1;

pub use activation::Activation;
pub use syn1::{header_bytes, limits};

/// A way to send an activation.
pub struct Peer {
    /// What the table calls it.
    pub name: &'static str,
    /// Replaces what the buffer holds with the bytes of an activation.
    pub encode: fn(&Activation, &mut Vec<u8>),
    /// Reads those bytes into an activation of the same shape.
    pub decode: fn(&[u8], &mut Activation),
}

/// Everyone who takes part, the limit first.
pub const PEERS: [Peer; 12] = [
    Peer { name: "memcpy (the limit)", encode: others::copy, decode: others::copy_back },
    Peer { name: "SYN1 f32", encode: syn1::encode_f32, decode: syn1::decode },
    Peer { name: "SYN1 f16", encode: syn1::encode_f16, decode: syn1::decode },
    Peer { name: "SYN1 q8", encode: syn1::encode_q8, decode: syn1::decode },
    Peer { name: "SYN1 q4", encode: syn1::encode_q4, decode: syn1::decode },
    Peer { name: "raw copy, as bincode", encode: others::raw, decode: others::raw_back },
    Peer { name: "safetensors", encode: others::safetensors, decode: others::safetensors_back },
    Peer { name: "flatbuffers", encode: others::flatbuffers, decode: others::flatbuffers_back },
    Peer { name: "protobuf (prost)", encode: others::protobuf, decode: others::protobuf_back },
    Peer { name: "postcard", encode: others::postcard, decode: others::postcard_back },
    Peer { name: "MessagePack", encode: others::message_pack, decode: others::message_pack_back },
    Peer { name: "JSON", encode: others::json, decode: others::json_back },
];

/// Rows and columns that are measured: a token of GPT-2, a token of a larger model, and a prompt of that.
pub const SHAPES: [(u16, u16); 3] = [(1, 768), (1, 4096), (512, 4096)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_what_was_sent_within_the_codecs_stated_error() {
        for (rows, cols) in [(1, 768), (1, 4096), (3, 33)] {
            let sent = Activation::sample(rows, cols);
            for peer in &PEERS {
                let mut bytes = Vec::new();
                let mut received = Activation { values: vec![f32::NAN; sent.values.len()], ..sent };
                (peer.encode)(&sent, &mut bytes);
                (peer.decode)(&bytes, &mut received);
                assert_eq!(received.values.len(), sent.values.len(), "{}", peer.name);
                for (row, back) in sent.rows().zip(received.rows()) {
                    let mut magnitudes: Vec<f32> = row.iter().map(|x| x.abs()).collect();
                    magnitudes.sort_by(|a, b| b.total_cmp(a));
                    // The largest magnitude but 8 is what q8 and q4 scale by.
                    let ninth = magnitudes[8];
                    for (x, y) in row.iter().zip(back) {
                        let half = x.abs() / 2048.0;
                        let bound = match peer.name {
                            "SYN1 f16" => half,
                            "SYN1 q8" => half.max(ninth / 254.0 * 1.0001),
                            "SYN1 q4" => half.max(ninth / 14.0 * 1.001),
                            _ => 0.0,
                        };
                        assert!((x - y).abs() <= bound, "{}: {x} became {y}", peer.name);
                    }
                }
            }
        }
    }

    #[test]
    fn a_buffer_that_was_used_before_gives_the_same_bytes() {
        let (small, large) = (Activation::sample(1, 40), Activation::sample(2, 300));
        for peer in &PEERS {
            let (mut used, mut fresh) = (Vec::new(), Vec::new());
            (peer.encode)(&large, &mut used);
            (peer.encode)(&small, &mut used);
            (peer.encode)(&small, &mut fresh);
            assert_eq!(used, fresh, "{}", peer.name);
        }
    }
}
