//! The bytes of every message, and that they are postcard's.

use proptest::prelude::*;

use super::mirror::Mirror;
use super::*;
use crate::limits::MAX_TEXT;

/// Every variant with its bytes. Published bytes never change: add lines, edit none.
fn golden() -> Vec<(Control<'static>, Vec<u8>)> {
    let hello = Hello {
        minor_min: 0,
        minor_max: 1,
        role: Role::Node,
        flags: 14,
        codecs: 14,
        max_payload: 1 << 20,
        max_rows: 300,
        credit: 130,
        model: [1; 32],
        key: [2; 32],
        nonce: [3; 32],
        agent: "syn1",
    };
    let hello_bytes =
        [&b"\x00\x00\x01\x01\x0e\x0e\x80\x80\x40\xac\x02\x82\x01"[..], &[1; 32], &[2; 32], &[3; 32], b"\x04syn1"];
    let model =
        Model { name: "tiny", manifest_sha256: [0xab; 32], http_port: 8080, width: 768, vocab: 50257, layers: 12 };
    let model_bytes = [&[4, 4][..], b"tiny", &[0xab; 32], &[0x90, 0x3f, 0x80, 6, 0xd1, 0x88, 3, 12]].concat();
    let profile = Profile { name: "n", device: "cpu", memory_bytes: 1 << 30, read_bytes_per_s: 1 << 35, layer_ns: 127 };
    let assign = Assign { generation: 1, first_layer: 2, end_layer: 8, max_positions: 512, slots: 4, max_rows: 128 };
    let open = Open { request: 9, epoch: 200, codec: 3, flags: 4, output: Output::Top(40), wanted_from: 130 };
    vec![
        (Control::Hello(hello), hello_bytes.concat()),
        (Control::Bye(Bye { reason: Reason::Refused, text: "full" }), b"\x01\x04\x04full".to_vec()),
        (Control::Ping(300), vec![2, 0xac, 2]),
        (Control::Pong(u64::MAX), vec![3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        (Control::Model(model), model_bytes),
        (Control::Profile(profile), b"\x05\x01n\x03cpu\x80\x80\x80\x80\x04\x80\x80\x80\x80\x80\x01\x7f".to_vec()),
        (Control::Assign(assign), vec![6, 1, 2, 8, 0x80, 4, 4, 0x80, 1]),
        (Control::Loading(Loading { generation: 1, done_bytes: 128, total_bytes: 256 }), vec![7, 1, 0x80, 1, 0x80, 2]),
        (
            Control::Loaded(Loaded { generation: 1, fetched_bytes: 0, layer_ns: 1000, slots: 4 }),
            vec![8, 1, 0, 0xe8, 7, 4],
        ),
        (Control::Open(open), vec![9, 9, 200, 3, 4, 0, 40, 0x82, 1]),
        (Control::Open(Open { output: Output::Full, ..open }), vec![9, 9, 200, 3, 4, 1, 0x82, 1]),
        (Control::Close { request: 9 }, vec![10, 9]),
        (Control::Failed(Failed { request: 9, epoch: 1, text: "é" }), vec![11, 9, 1, 2, 0xc3, 0xa9]),
        (Control::Unable(Unable { generation: 3, text: "" }), vec![12, 3, 0]),
        (Control::Closed(Closed { request: 9, compute_us: 300 }), vec![13, 9, 0xac, 2]),
        (Control::Prove { signature: [0xcd; 64] }, [&[14][..], &[0xcd; 64]].concat()),
        (Control::Grant { frames: 300 }, vec![15, 0xac, 2]),
    ]
}

fn encoded(message: &Control<'_>) -> Vec<u8> {
    let mut out = [0; MAX_CONTROL as usize];
    let len = message.encode(&mut out).unwrap();
    out[..len].to_vec()
}

#[test]
fn every_variant_has_its_published_bytes() {
    let mut variants = Vec::new();
    for (message, bytes) in golden() {
        assert_eq!(encoded(&message), bytes, "{}", message.name());
        assert_eq!(Control::decode(&bytes), Ok(message));
        variants.push(bytes[0]);
    }
    variants.dedup();
    assert_eq!(variants, (0..VARIANTS).collect::<Vec<_>>());
}

#[test]
fn every_reason_and_role_has_its_published_number() {
    use Reason::*;
    for (number, reason) in (0..).zip([Done, Version, Protocol, Timeout, Refused, Replaced, Shutdown, Internal]) {
        assert_eq!(encoded(&Control::Bye(Bye { reason, text: "" })), [1, number, 0]);
    }
    assert_eq!((Role::Coordinator as u8, Role::Node as u8), (0, 1));
}

#[test]
fn messages_that_are_cut_or_longer_are_refused() {
    for (message, bytes) in golden() {
        for end in 0..bytes.len() {
            assert_eq!(Control::decode(&bytes[..end]), Err(ControlError::Malformed), "{}", message.name());
        }
        let longer = [&bytes[..], &[0, 0]].concat();
        assert_eq!(Control::decode(&longer), Err(ControlError::Trailing(2)), "{}", message.name());
        let have = bytes.len() - 1;
        assert_eq!(message.encode(&mut vec![0; have]), Err(ControlError::Buffer { have }));
    }
}

#[test]
fn unknown_messages_are_named_and_unknown_reasons_refused() {
    assert_eq!(Control::decode(&[VARIANTS]), Err(ControlError::Unknown(VARIANTS.into())));
    assert_eq!(Control::decode(&[0xff, 0xff, 0xff, 0xff, 15]), Err(ControlError::Unknown(u32::MAX)));
    assert_eq!(Control::decode(&[0xff]), Err(ControlError::Malformed));
    assert_eq!(Control::decode(&[1, 99, 0]), Err(ControlError::Malformed));
}

#[test]
fn texts_are_cut_between_characters_and_the_largest_message_fits() {
    let long = "é".repeat(400);
    assert_eq!(clip(&long).len(), MAX_TEXT);
    assert_eq!(clip(&long[2..]), clip(&long));
    let odd = format!("x{long}");
    assert_eq!(clip(&odd), &odd[..MAX_TEXT - 1]);
    assert_eq!(clip("short"), "short");
    let profile =
        Profile { name: &odd, device: &long, memory_bytes: u64::MAX, read_bytes_per_s: u64::MAX, layer_ns: u64::MAX };
    let bytes = encoded(&Control::Profile(profile));
    let Ok(Control::Profile(back)) = Control::decode(&bytes) else { panic!("{bytes:?}") };
    assert_eq!((back.name, back.device), (clip(&odd), clip(&long)));
}

/// Message `number`, its fields taken from what there is.
fn message<'a>(number: u8, [a, b, c, d]: [u64; 4], bytes: [u8; 64], [text, other]: [&'a str; 2]) -> Control<'a> {
    let hash = *bytes.first_chunk().unwrap();
    let (key, nonce) = (*bytes[13..].first_chunk().unwrap(), *bytes.last_chunk().unwrap());
    let [request, generation] = [a as u32; 2];
    let role = [Role::Coordinator, Role::Node][a as usize % 2];
    let output = if c % 2 == 0 { Output::Top(b as u16) } else { Output::Full };
    match number {
        0 => Control::Hello(Hello {
            minor_min: bytes[1],
            minor_max: bytes[2],
            role,
            flags: bytes[3],
            codecs: b as u32,
            max_payload: c as u32,
            max_rows: d as u16,
            credit: a as u16,
            model: hash,
            key,
            nonce,
            agent: text,
        }),
        1 => Control::Bye(Bye { reason: REASONS[a as usize % 8], text }),
        2 => Control::Ping(a),
        3 => Control::Pong(a),
        4 => Control::Model(Model {
            name: text,
            manifest_sha256: hash,
            http_port: a as u16,
            width: b as u16,
            vocab: c as u32,
            layers: d as u16,
        }),
        5 => Control::Profile(Profile { name: text, device: other, memory_bytes: a, read_bytes_per_s: b, layer_ns: c }),
        6 => Control::Assign(Assign {
            generation,
            first_layer: b as u16,
            end_layer: c as u16,
            max_positions: d as u32,
            slots: d as u16,
            max_rows: c as u16,
        }),
        7 => Control::Loading(Loading { generation, done_bytes: b, total_bytes: c }),
        8 => Control::Loaded(Loaded { generation, fetched_bytes: b, layer_ns: c, slots: d as u16 }),
        9 => Control::Open(Open {
            request,
            epoch: bytes[0],
            codec: bytes[1],
            flags: bytes[2],
            output,
            wanted_from: d as u32,
        }),
        10 => Control::Close { request },
        11 => Control::Failed(Failed { request, epoch: bytes[0], text }),
        12 => Control::Unable(Unable { generation, text }),
        13 => Control::Closed(Closed { request, compute_us: b }),
        14 => Control::Prove { signature: bytes },
        _ => Control::Grant { frames: a as u16 },
    }
}

const REASONS: [Reason; 8] = {
    use Reason::*;
    [Done, Version, Protocol, Timeout, Refused, Replaced, Shutdown, Internal]
};

/// Numbers of every length, long ones no likelier than short ones.
fn number() -> impl Strategy<Value = u64> {
    (0..64u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
}

fn numbers() -> impl Strategy<Value = [u64; 4]> {
    [number(), number(), number(), number()]
}

fn bytes() -> impl Strategy<Value = [u8; 64]> {
    proptest::array::uniform(any::<u8>())
}

/// Postcard and this module must say the same of `bytes`.
fn compare(bytes: &[u8]) {
    let ours = Control::decode(bytes);
    match postcard::take_from_bytes::<Mirror<'_>>(bytes) {
        Ok((theirs, [])) => assert_eq!(ours.map(Mirror::from), Ok(theirs)),
        Ok((_, rest)) => assert_eq!(ours, Err(ControlError::Trailing(rest.len()))),
        Err(_) => {
            let number = postcard::take_from_bytes::<u32>(bytes).map(|(number, _)| number);
            let unknown = number.ok().filter(|number| *number >= VARIANTS.into());
            assert_eq!(ours, Err(unknown.map_or(ControlError::Malformed, ControlError::Unknown)));
        }
    }
}

proptest! {
    #[test]
    fn every_message_comes_back_and_has_postcards_bytes(
        number in 0..VARIANTS,
        numbers in numbers(),
        bytes in bytes(),
        texts: [String; 2],
    ) {
        let message = message(number, numbers, bytes, [clip(&texts[0]), clip(&texts[1])]);
        let ours = encoded(&message);
        let mut theirs = [0; MAX_CONTROL as usize];
        prop_assert_eq!(&ours[..], postcard::to_slice(&Mirror::from(message), &mut theirs).unwrap());
        prop_assert_eq!(ours[0], number);
        prop_assert_eq!(Control::decode(&ours), Ok(message));
    }

    #[test]
    fn what_postcard_refuses_is_refused_and_nothing_else(
        number in 0..VARIANTS,
        numbers in numbers(),
        bytes in bytes(),
        text: [String; 2],
        at: prop::sample::Index,
        spoilt: u8,
        how in 0..5,
    ) {
        let mut bytes = encoded(&message(number, numbers, bytes, [&text[0], &text[1]]));
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] = spoilt,
            1 => bytes[at] ^= 1 << (spoilt % 8),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, spoilt),
            // A number that takes more bytes than it needs.
            _ => {
                bytes[at] |= 0x80;
                bytes.insert(at + 1, spoilt & 1);
            }
        }
        compare(&bytes);
    }

    #[test]
    fn garbage_never_panics_and_what_is_read_can_be_written(start in 0..=VARIANTS, rest: Vec<u8>) {
        let bytes = [&[start][..], &rest].concat();
        compare(&bytes);
        if let Ok(message) = Control::decode(&bytes) {
            let canonical = encoded(&message);
            prop_assert_eq!(Control::decode(&canonical), Ok(message));
        }
    }
}

/// How many messages there are.
const VARIANTS: u8 = 16;
