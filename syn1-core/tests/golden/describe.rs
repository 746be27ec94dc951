//! What a frame says, as lines of text.

use syn1_core::codec::ids;
use syn1_core::control::{Control, Open, Output};
use syn1_core::output::{full_decode, top_decode};
use syn1_core::{DecodeError, Frame, Header, Inbound, Kind, Limits};

use crate::vector::hex;

/// The meaning of a message that holds one frame, behind the one `before` if that is not empty: `expect`, and for a frame
/// its header and its payload.
pub(crate) fn lines(before: &[u8], bytes: &[u8], limits: &Limits) -> Vec<String> {
    let frame = match Frame::from_message(bytes, limits) {
        Ok(Some(frame)) => frame,
        Ok(None) => return vec!["expect skip".to_owned()],
        Err(DecodeError::Header(error)) => return refusal(error),
        Err(error) => return refusal(error),
    };
    let payload = match frame.header.kind {
        Kind::Tokens => Ok(vec![ids(frame.payload).fold("ids".to_owned(), |line, id| format!("{line} {id}"))]),
        Kind::Activation => activation(before, &frame, limits),
        Kind::Output if frame.header.is_acknowledge() => Ok(Vec::new()),
        Kind::Output => output(&frame, limits),
        Kind::Control => Control::decode(frame.payload).map(|message| vec![self::message(&message)]).map_err(refusal),
    };
    payload.map_or_else(|refusal| refusal, |lines| [header(&frame.header), lines].concat())
}

/// A line of numbers, each as people write it and as its bits.
pub(crate) fn floats(word: &str, values: &[f32]) -> String {
    values.iter().fold(word.to_owned(), |line, value| format!("{line} {}", float(*value)))
}

fn float(value: f32) -> String {
    format!("{value:?}={:08x}", value.to_bits())
}

/// The name of an error: its variant's.
fn refusal(error: impl core::fmt::Debug) -> Vec<String> {
    let text = format!("{error:?}");
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    vec![format!("expect error {}", &text[..end])]
}

fn header(header: &Header) -> Vec<String> {
    let Header { kind, flags, codec, epoch, position, request, payload_len, rows, cols } = *header;
    let (number, codec, flags) = (kind as u8, codec as u8, flags.bits());
    vec![
        format!("expect {kind}"),
        format!(
            "header kind={number} flags={flags} codec={codec} epoch={epoch} position={position} request={request} \
             payload_len={payload_len} rows={rows} cols={cols}"
        ),
    ]
}

fn activation(before: &[u8], frame: &Frame<'_>, limits: &Limits) -> Result<Vec<String>, Vec<String>> {
    let mut end = Inbound::new(vec![f32::NAN; limits.width.into()]);
    let mut read = |frame: &Frame<'_>| {
        let Header { rows, cols, .. } = frame.header;
        let mut values = vec![f32::NAN; usize::from(rows) * usize::from(cols)];
        end.decode(frame, &mut values).map(|()| values)
    };
    if let Ok(Some(before)) = Frame::from_message(before, limits) {
        read(&before).unwrap();
    }
    let values = read(frame).map_err(refusal)?;
    Ok(values.chunks(frame.header.cols.into()).map(|row| floats("decoded", row)).collect())
}

fn output(frame: &Frame<'_>, limits: &Limits) -> Result<Vec<String>, Vec<String>> {
    if frame.header.codec == syn1_core::Codec::F32 {
        let mut logits = vec![f32::NAN; limits.vocab as usize];
        full_decode(frame.payload, &mut logits).map_err(refusal)?;
        return Ok(vec![floats("decoded", &logits)]);
    }
    let rows = top_decode(frame.payload, frame.header.cols, limits.vocab).map_err(refusal)?;
    let line = |sum, entries: &[(u32, f32)]| {
        let row = format!("row log_sum_exp={}", float(sum));
        entries.iter().fold(row, |line, (id, logit)| format!("{line} {id}:{}", float(*logit)))
    };
    Ok(rows.map(|row| line(row.log_sum_exp(), &row.entries().collect::<Vec<_>>())).collect())
}

fn message(message: &Control<'_>) -> String {
    let fields = match message {
        Control::Hello(m) => format!(
            "minor_min={} minor_max={} role={} flags={} codecs={} max_payload={} max_rows={} credit={} \
             model={} key={} nonce={} agent={:?}",
            m.minor_min,
            m.minor_max,
            name(m.role),
            m.flags,
            m.codecs,
            m.max_payload,
            m.max_rows,
            m.credit,
            hex(&m.model),
            hex(&m.key),
            hex(&m.nonce),
            m.agent
        ),
        Control::Bye(m) => format!("reason={} text={:?}", name(m.reason), m.text),
        Control::Ping(number) | Control::Pong(number) => format!("number={number}"),
        Control::Model(m) => format!(
            "name={:?} manifest_sha256={} http_port={} width={} vocab={} layers={}",
            m.name,
            hex(&m.manifest_sha256),
            m.http_port,
            m.width,
            m.vocab,
            m.layers
        ),
        Control::Profile(m) => format!(
            "name={:?} device={:?} memory_bytes={} read_bytes_per_s={} layer_ns={}",
            m.name, m.device, m.memory_bytes, m.read_bytes_per_s, m.layer_ns
        ),
        Control::Assign(m) => format!(
            "generation={} first_layer={} end_layer={} max_positions={} slots={} max_rows={}",
            m.generation, m.first_layer, m.end_layer, m.max_positions, m.slots, m.max_rows
        ),
        Control::Loading(m) => {
            format!("generation={} done_bytes={} total_bytes={}", m.generation, m.done_bytes, m.total_bytes)
        }
        Control::Loaded(m) => format!(
            "generation={} fetched_bytes={} layer_ns={} slots={}",
            m.generation, m.fetched_bytes, m.layer_ns, m.slots
        ),
        Control::Open(m) => {
            let output = match m.output {
                Output::Top(k) => format!("Top({k})"),
                Output::Full => "Full".to_owned(),
            };
            let Open { request, epoch, codec, flags, wanted_from, .. } = m;
            format!(
                "request={request} epoch={epoch} codec={codec} flags={flags} output={output} wanted_from={wanted_from}"
            )
        }
        Control::Close { request } => format!("request={request}"),
        Control::Failed(m) => format!("request={} epoch={} text={:?}", m.request, m.epoch, m.text),
        Control::Unable(m) => format!("generation={} text={:?}", m.generation, m.text),
        Control::Closed(m) => format!("request={} compute_us={}", m.request, m.compute_us),
        Control::Prove { signature } => format!("signature={}", hex(signature)),
        Control::Grant { frames } => format!("frames={frames}"),
    };
    format!("message {} {fields}", message.name())
}

fn name(of: impl core::fmt::Debug) -> String {
    format!("{of:?}")
}
