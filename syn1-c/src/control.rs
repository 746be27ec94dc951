//! Control messages in and out of frames.

use syn1_core::control::{
    Assign, Bye, Closed, Failed, Hello, Loaded, Loading, Model, Open, Output, Profile, Reason, Role, Unable,
};
use syn1_core::{Control, encode_control};

use crate::error::{outcome, syn1_error};
use crate::message::*;
use crate::view::{many, many_mut, one, put, syn1_text};

/// Reads the payload of a control frame. Texts lie in it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_control_decode(
    payload: *const u8,
    payload_len: usize,
    control: *mut syn1_control,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let payload = unsafe { many(payload, payload_len)? };
        let message = Control::decode(payload)?;
        // SAFETY: the rules of the crate.
        unsafe { put(control, of(&message)) }
    })
}

/// Writes a control message with its header into `out`; `written` becomes the bytes of the frame. Texts are cut to 256
/// bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syn1_control_encode(
    control: *const syn1_control,
    out: *mut u8,
    out_len: usize,
    written: *mut usize,
) -> syn1_error {
    outcome(|| {
        // SAFETY: the rules of the crate.
        let (control, out) = unsafe { (one(control)?, many_mut(out, out_len)?) };
        // SAFETY: the rules of the crate.
        let message = unsafe { read(&control)? };
        let len = encode_control(&message, out)?.len();
        // SAFETY: the rules of the crate.
        unsafe { put(written, len) }
    })
}

/// A role that exists.
pub(crate) fn role(role: syn1_role) -> Result<Role, syn1_error> {
    match role {
        SYN1_ROLE_COORDINATOR => Ok(Role::Coordinator),
        SYN1_ROLE_NODE => Ok(Role::Node),
        _ => Err(syn1_error::SYN1_ERROR_VALUE),
    }
}

/// A reason that exists.
pub(crate) fn reason(reason: syn1_reason) -> Result<Reason, syn1_error> {
    Ok(match reason {
        SYN1_REASON_DONE => Reason::Done,
        SYN1_REASON_VERSION => Reason::Version,
        SYN1_REASON_PROTOCOL => Reason::Protocol,
        SYN1_REASON_TIMEOUT => Reason::Timeout,
        SYN1_REASON_REFUSED => Reason::Refused,
        SYN1_REASON_REPLACED => Reason::Replaced,
        SYN1_REASON_SHUTDOWN => Reason::Shutdown,
        SYN1_REASON_INTERNAL => Reason::Internal,
        _ => return Err(syn1_error::SYN1_ERROR_VALUE),
    })
}

/// A Bye for C.
pub(crate) fn bye(bye: &Bye<'_>) -> syn1_bye {
    syn1_bye { text: syn1_text::of(bye.text), reason: bye.reason as u8 }
}

/// A message for C.
#[inline(never)]
pub(crate) fn of(control: &Control<'_>) -> syn1_control {
    let (message, body) = match control {
        Control::Hello(m) => {
            let Hello {
                minor_min,
                minor_max,
                role,
                flags,
                codecs,
                max_payload,
                max_rows,
                credit,
                model,
                key,
                nonce,
                agent,
            } = *m;
            let (agent, role) = (syn1_text::of(agent), role as u8);
            let hello = syn1_hello {
                agent,
                codecs,
                max_payload,
                max_rows,
                credit,
                minor_min,
                minor_max,
                role,
                flags,
                model,
                key,
                nonce,
            };
            (SYN1_MESSAGE_HELLO, syn1_body { hello })
        }
        Control::Bye(m) => (SYN1_MESSAGE_BYE, syn1_body { bye: bye(m) }),
        Control::Ping(number) => (SYN1_MESSAGE_PING, syn1_body { number: *number }),
        Control::Pong(number) => (SYN1_MESSAGE_PONG, syn1_body { number: *number }),
        Control::Model(m) => {
            let Model { name, manifest_sha256, http_port, width, vocab, layers } = *m;
            let name = syn1_text::of(name);
            let model = syn1_model { name, vocab, http_port, width, layers, manifest_sha256 };
            (SYN1_MESSAGE_MODEL, syn1_body { model })
        }
        Control::Profile(m) => {
            let Profile { name, device, memory_bytes, read_bytes_per_s, layer_ns } = *m;
            let (name, device) = (syn1_text::of(name), syn1_text::of(device));
            let profile = syn1_profile { name, device, memory_bytes, read_bytes_per_s, layer_ns };
            (SYN1_MESSAGE_PROFILE, syn1_body { profile })
        }
        Control::Assign(m) => {
            let Assign { generation, first_layer, end_layer, max_positions, slots, max_rows } = *m;
            let assign = syn1_assign { generation, max_positions, first_layer, end_layer, slots, max_rows };
            (SYN1_MESSAGE_ASSIGN, syn1_body { assign })
        }
        Control::Loading(m) => {
            let Loading { generation, done_bytes, total_bytes } = *m;
            (SYN1_MESSAGE_LOADING, syn1_body { loading: syn1_loading { done_bytes, total_bytes, generation } })
        }
        Control::Loaded(m) => {
            let Loaded { generation, fetched_bytes, layer_ns, slots } = *m;
            let loaded = syn1_loaded { fetched_bytes, layer_ns, generation, slots };
            (SYN1_MESSAGE_LOADED, syn1_body { loaded })
        }
        Control::Open(m) => {
            let Open { request, epoch, codec, flags, output, wanted_from } = *m;
            let (output, k) = match output {
                Output::Top(k) => (SYN1_OUTPUT_TOP, k),
                Output::Full => (SYN1_OUTPUT_FULL, 0),
            };
            let open = syn1_open { request, wanted_from, k, output, epoch, codec, flags };
            (SYN1_MESSAGE_OPEN, syn1_body { open })
        }
        Control::Close { request } => (SYN1_MESSAGE_CLOSE, syn1_body { request: *request }),
        Control::Failed(m) => {
            let failed = syn1_failed { text: syn1_text::of(m.text), request: m.request, epoch: m.epoch };
            (SYN1_MESSAGE_FAILED, syn1_body { failed })
        }
        Control::Unable(m) => {
            let unable = syn1_unable { text: syn1_text::of(m.text), generation: m.generation };
            (SYN1_MESSAGE_UNABLE, syn1_body { unable })
        }
        Control::Closed(m) => {
            let closed = syn1_closed { compute_us: m.compute_us, request: m.request };
            (SYN1_MESSAGE_CLOSED, syn1_body { closed })
        }
        Control::Prove { signature } => (SYN1_MESSAGE_PROVE, syn1_body { signature: *signature }),
        Control::Grant { frames } => (SYN1_MESSAGE_GRANT, syn1_body { frames: *frames }),
    };
    syn1_control { message, body }
}

/// A message of C's.
///
/// # Safety
/// The rules of the crate, for as long as `'a`: the fields that the message's number names are written.
#[inline(never)]
unsafe fn read<'a>(control: &syn1_control) -> Result<Control<'a>, syn1_error> {
    let body = control.body;
    // SAFETY: every field of the union takes any bits, the number says which was written, and texts are lent by the rules of
    // the crate.
    unsafe {
        Ok(match control.message {
            SYN1_MESSAGE_HELLO => {
                let syn1_hello { agent, codecs, max_payload, max_rows, credit, minor_min, minor_max, .. } = body.hello;
                let syn1_hello { role, flags, model, key, nonce, .. } = body.hello;
                let (agent, role) = (agent.read()?, self::role(role)?);
                Control::Hello(Hello {
                    minor_min,
                    minor_max,
                    role,
                    flags,
                    codecs,
                    max_payload,
                    max_rows,
                    credit,
                    model,
                    key,
                    nonce,
                    agent,
                })
            }
            SYN1_MESSAGE_BYE => Control::Bye(Bye { reason: reason(body.bye.reason)?, text: body.bye.text.read()? }),
            SYN1_MESSAGE_PING => Control::Ping(body.number),
            SYN1_MESSAGE_PONG => Control::Pong(body.number),
            SYN1_MESSAGE_MODEL => {
                let syn1_model { name, vocab, http_port, width, layers, manifest_sha256 } = body.model;
                let name = name.read()?;
                Control::Model(Model { name, manifest_sha256, http_port, width, vocab, layers })
            }
            SYN1_MESSAGE_PROFILE => {
                let syn1_profile { name, device, memory_bytes, read_bytes_per_s, layer_ns } = body.profile;
                let (name, device) = (name.read()?, device.read()?);
                Control::Profile(Profile { name, device, memory_bytes, read_bytes_per_s, layer_ns })
            }
            SYN1_MESSAGE_ASSIGN => {
                let syn1_assign { generation, max_positions, first_layer, end_layer, slots, max_rows } = body.assign;
                Control::Assign(Assign { generation, first_layer, end_layer, max_positions, slots, max_rows })
            }
            SYN1_MESSAGE_LOADING => {
                let syn1_loading { done_bytes, total_bytes, generation } = body.loading;
                Control::Loading(Loading { generation, done_bytes, total_bytes })
            }
            SYN1_MESSAGE_LOADED => {
                let syn1_loaded { fetched_bytes, layer_ns, generation, slots } = body.loaded;
                Control::Loaded(Loaded { generation, fetched_bytes, layer_ns, slots })
            }
            SYN1_MESSAGE_OPEN => {
                let syn1_open { request, wanted_from, k, output, epoch, codec, flags } = body.open;
                let output = match output {
                    SYN1_OUTPUT_TOP => Output::Top(k),
                    SYN1_OUTPUT_FULL => Output::Full,
                    _ => return Err(syn1_error::SYN1_ERROR_VALUE),
                };
                Control::Open(Open { request, epoch, codec, flags, output, wanted_from })
            }
            SYN1_MESSAGE_CLOSE => Control::Close { request: body.request },
            SYN1_MESSAGE_FAILED => {
                let syn1_failed { text, request, epoch } = body.failed;
                Control::Failed(Failed { request, epoch, text: text.read()? })
            }
            SYN1_MESSAGE_UNABLE => {
                let syn1_unable { text, generation } = body.unable;
                Control::Unable(Unable { generation, text: text.read()? })
            }
            SYN1_MESSAGE_CLOSED => {
                let syn1_closed { compute_us, request } = body.closed;
                Control::Closed(Closed { request, compute_us })
            }
            SYN1_MESSAGE_PROVE => Control::Prove { signature: body.signature },
            SYN1_MESSAGE_GRANT => Control::Grant { frames: body.frames },
            _ => return Err(syn1_error::SYN1_ERROR_VALUE),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_numbers_that_do_not_exist_is_not_written() {
        let open = syn1_open { request: 1, wanted_from: 0, k: 1, output: 2, epoch: 0, codec: 1, flags: 0 };
        let bye = syn1_bye { text: syn1_text::of("x"), reason: 8 };
        for control in [
            syn1_control { message: 16, body: syn1_body { number: 0 } },
            syn1_control { message: SYN1_MESSAGE_OPEN, body: syn1_body { open } },
            syn1_control { message: SYN1_MESSAGE_BYE, body: syn1_body { bye } },
        ] {
            // SAFETY: the fields of the message's number are written.
            assert_eq!(unsafe { read(&control) }, Err(syn1_error::SYN1_ERROR_VALUE));
        }
    }

    #[test]
    fn reasons_and_roles_are_those_of_the_core() {
        for number in 0..=255 {
            assert_eq!(reason(number).is_ok_and(|reason| reason as u8 == number), number < 8);
            assert_eq!(role(number).is_ok_and(|role| role as u8 == number), number < 2);
        }
    }
}
