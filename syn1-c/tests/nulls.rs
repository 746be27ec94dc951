//! Null pointers, to every function that takes any.

use std::ptr::{null, null_mut};

use syn1_c::*;

#[test]
fn a_null_pointer_is_an_error_of_every_function() {
    let (header, limits) = (syn1_header_tokens(1, 0, 0, 1), syn1_limits_handshake());
    let (place, text) = (syn1_place { request: 1, position: 0, epoch: 0, predicted: 0, codec: 1, flags: 0 }, b"x");
    let text = syn1_text { data: text.as_ptr().cast(), len: 1 };
    let (row, mut bytes, mut values) = ([0.5_f32; 16], [0_u8; 64], [0.0_f32; 16]);
    let (out, out_len, room) = (bytes.as_mut_ptr(), bytes.len(), values.as_mut_ptr());
    // SAFETY: every pointer is null or one of the values above, which are as long as is said.
    let said = unsafe {
        [
            ("header_parse", syn1_header_parse(null(), &limits, null_mut())),
            ("header_parse limits", syn1_header_parse(out, null(), null_mut())),
            ("header_emit", syn1_header_emit(null(), out)),
            ("header_emit out", syn1_header_emit(&header, null_mut())),
            ("header_activation", syn1_header_activation(1, 0, 0, SYN1_CODEC_F32, 1, 16, null_mut())),
            ("header_top", syn1_header_top(1, 0, 0, 1, 4, null_mut())),
            ("header_full", syn1_header_full(1, 0, 0, 16, null_mut())),
            ("encoded_len", syn1_encoded_len(SYN1_CODEC_Q8, 1, 16, null_mut())),
            ("frame_encode", syn1_frame_encode(null(), null(), 0, out, out_len, null_mut())),
            ("frame_encode payload", syn1_frame_encode(&header, null(), 4, out, out_len, null_mut())),
            ("frame_encode out", syn1_frame_encode(&header, null(), 0, null_mut(), 64, null_mut())),
            ("frame_from_message", syn1_frame_from_message(null(), 24, &limits, null_mut())),
            ("frame_from_message limits", syn1_frame_from_message(out, 24, null(), null_mut())),
            ("choose", syn1_choose(SYN1_CODEC_Q8, null(), 16, null_mut())),
            ("choose codec", syn1_choose(SYN1_CODEC_Q8, row.as_ptr(), 16, null_mut())),
            ("encode", syn1_encode(SYN1_CODEC_Q8, null(), 16, 16, out, out_len, null_mut())),
            ("encode written", syn1_encode(SYN1_CODEC_Q8, row.as_ptr(), 16, 16, out, out_len, null_mut())),
            ("decode", syn1_decode(SYN1_CODEC_F32, null(), 64, 1, 16, room, 16)),
            ("decode values", syn1_decode(SYN1_CODEC_F32, out, 64, 1, 16, null_mut(), 16)),
            ("q8_encode_row", syn1_q8_encode_row(row.as_ptr(), 16, null_mut(), 52)),
            ("q8_decode_row", syn1_q8_decode_row(null(), 52, room, 16)),
            ("ids_encode", syn1_ids_encode(null(), 4, out, out_len)),
            ("ids_decode", syn1_ids_decode(out, 16, null_mut(), 4)),
            ("top_encode", syn1_top_encode(null(), 16, 4, out, out_len, null_mut())),
            ("top_decode", syn1_top_decode(out, 40, 4, 16, 0, null_mut(), null_mut(), room)),
            ("full_encode", syn1_full_encode(null(), 16, out, out_len, null_mut())),
            ("full_decode", syn1_full_decode(null(), 64, room, 16)),
            ("control_decode", syn1_control_decode(null(), 2, null_mut())),
            ("control_encode", syn1_control_encode(null(), out, out_len, null_mut())),
            ("decoder_init", syn1_decoder_init(null_mut(), out, out_len, &limits)),
            ("decoder_init buffer", syn1_decoder_init(null_mut(), null_mut(), 64, &limits)),
            ("decoder_set_limits", syn1_decoder_set_limits(null_mut(), &limits)),
            ("decoder_commit", syn1_decoder_commit(null_mut(), 0)),
            ("decoder_next", syn1_decoder_next(null_mut(), null_mut())),
            ("decoder_finish", syn1_decoder_finish(null_mut())),
            ("outbound_init", syn1_outbound_init(null_mut(), null_mut(), 0, null_mut(), 0)),
            (
                "outbound_encode",
                syn1_outbound_encode(null_mut(), &place, row.as_ptr(), 16, 16, out, out_len, null_mut()),
            ),
            ("inbound_init", syn1_inbound_init(null_mut(), null_mut(), 0)),
            ("inbound_decode", syn1_inbound_decode(null_mut(), null(), room, 16)),
            ("session_init", syn1_session_init(null_mut(), null(), null(), 0)),
            ("session_handle", syn1_session_handle(null_mut(), 0, null(), null_mut())),
            ("session_poll_transmit", syn1_session_poll_transmit(null_mut(), out, out_len, null_mut())),
            ("session_poll_timeout", syn1_session_poll_timeout(null_mut(), null_mut())),
            ("session_handle_timeout", syn1_session_handle_timeout(null_mut(), 0)),
            ("session_limits", syn1_session_limits(null_mut(), null_mut())),
            ("session_set_model", syn1_session_set_model(null_mut(), 16, 32)),
            ("session_negotiated", syn1_session_negotiated(null_mut(), null_mut())),
            ("session_peer", syn1_session_peer(null_mut(), null_mut())),
            ("session_take_credit", syn1_session_take_credit(null_mut())),
            ("session_done", syn1_session_done(null_mut())),
            ("session_leave", syn1_session_leave(null_mut(), SYN1_REASON_DONE, text, out, out_len, null_mut())),
        ]
    };
    for (what, error) in said {
        assert_eq!(error, syn1_error::SYN1_ERROR_NULL, "{what}");
    }
    // SAFETY: null, as above.
    let room = unsafe { syn1_decoder_spare(null_mut()) };
    assert!(room.data.is_null() && room.len == 0);
}
