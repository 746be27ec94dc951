//! The example does what it says.

// What it offers is for another crate.
#[allow(unreachable_pub)]
#[path = "../examples/hello_frame.rs"]
mod hello_frame;

use hello_frame::{FRAME, WIDTH, receive, receiver, send};

#[test]
fn rows_arrive_with_their_positions_however_the_bytes_are_cut() {
    let row: [f32; WIDTH as usize] = core::array::from_fn(|i| (i as f32).sin());
    let mut bytes = Vec::new();
    for position in 0..3 {
        bytes.extend(send(&row, position, &mut [0; FRAME]).unwrap());
    }
    for chunk in [1, 7, bytes.len()] {
        let (mut decoder, mut positions) = (receiver(), Vec::new());
        for piece in bytes.chunks(chunk) {
            let show = |position, came: &[f32; WIDTH as usize]| {
                assert!(row.iter().zip(came).all(|(sent, came)| (sent - came).abs() < 0.01));
                positions.push(position);
            };
            receive(&mut decoder, piece, show).unwrap();
        }
        assert_eq!(positions, [0, 1, 2]);
    }
    assert!(receive(&mut receiver(), b"GET / HTTP/1.1\r\nHost: a.example\r\n", |_, _| ()).is_err());
}
