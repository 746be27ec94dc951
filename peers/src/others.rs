//! Everyone else: a pair of functions per format, from the least work to the most.

use flatbuffers::{FlatBufferBuilder, Vector};
use prost::Message;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::Activation;

pub(crate) fn copy(activation: &Activation, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(bytemuck::cast_slice(&activation.values));
}

pub(crate) fn copy_back(bytes: &[u8], out: &mut Activation) {
    bytemuck::cast_slice_mut(&mut out.values).copy_from_slice(bytes);
}

/// The number of values as u64 and their bytes, little endian: what bincode makes of a `Vec<f32>`.
pub(crate) fn raw(activation: &Activation, out: &mut Vec<u8>) {
    out.clear();
    out.extend((activation.values.len() as u64).to_le_bytes());
    out.extend(activation.values.iter().flat_map(|value| value.to_le_bytes()));
}

pub(crate) fn raw_back(bytes: &[u8], out: &mut Activation) {
    let (len, bytes) = bytes.split_first_chunk().expect("a length");
    assert_eq!(u64::from_le_bytes(*len), bytes.len() as u64 / 4);
    read(bytes, out);
}

pub(crate) fn safetensors(activation: &Activation, out: &mut Vec<u8>) {
    let shape = vec![activation.rows.into(), activation.cols.into()];
    let view = TensorView::new(Dtype::F32, shape, bytemuck::cast_slice(&activation.values)).expect("whole rows");
    *out = safetensors::serialize([("x", view)], None).expect("one tensor");
}

pub(crate) fn safetensors_back(bytes: &[u8], out: &mut Activation) {
    let file = SafeTensors::deserialize(bytes).expect("a file of ours");
    read(file.tensor("x").expect("one tensor").data(), out);
}

/// A buffer whose root is the vector, without a table around it.
pub(crate) fn flatbuffers(activation: &Activation, out: &mut Vec<u8>) {
    out.clear();
    let mut builder = FlatBufferBuilder::from_vec(core::mem::take(out));
    let vector = builder.create_vector(&activation.values);
    builder.finish(vector, None);
    let (buffer, start) = builder.collapse();
    *out = buffer;
    out.drain(..start);
}

pub(crate) fn flatbuffers_back(bytes: &[u8], out: &mut Activation) {
    let vector = flatbuffers::root::<Vector<'_, f32>>(bytes).expect("a buffer of ours");
    read(vector.bytes(), out);
}

/// `message Activation { repeated float values = 1; }`, packed.
#[derive(Clone, PartialEq, Message)]
struct Protobuf {
    #[prost(float, repeated, tag = "1")]
    values: Vec<f32>,
}

pub(crate) fn protobuf(activation: &Activation, out: &mut Vec<u8>) {
    out.clear();
    prost::encoding::float::encode_packed(1, &activation.values, out);
}

pub(crate) fn protobuf_back(bytes: &[u8], out: &mut Activation) {
    let mut message = Protobuf { values: core::mem::take(&mut out.values) };
    message.values.clear();
    message.merge(bytes).expect("a message of ours");
    out.values = message.values;
}

pub(crate) fn postcard(activation: &Activation, out: &mut Vec<u8>) {
    out.clear();
    *out = postcard::to_extend(&activation.values, core::mem::take(out)).expect("floats");
}

pub(crate) fn postcard_back(bytes: &[u8], out: &mut Activation) {
    out.values = postcard::from_bytes(bytes).expect("a vector of ours");
}

pub(crate) fn message_pack(activation: &Activation, out: &mut Vec<u8>) {
    out.clear();
    rmp_serde::encode::write(out, &activation.values).expect("floats");
}

pub(crate) fn message_pack_back(bytes: &[u8], out: &mut Activation) {
    out.values = rmp_serde::from_slice(bytes).expect("a vector of ours");
}

pub(crate) fn json(activation: &Activation, out: &mut Vec<u8>) {
    out.clear();
    serde_json::to_writer(out, &activation.values).expect("finite floats");
}

pub(crate) fn json_back(bytes: &[u8], out: &mut Activation) {
    out.values = serde_json::from_slice(bytes).expect("a vector of ours");
}

fn read(bytes: &[u8], out: &mut Activation) {
    let cells = bytes.as_chunks().0;
    assert_eq!(cells.len(), out.values.len());
    for (value, bytes) in out.values.iter_mut().zip(cells) {
        *value = f32::from_le_bytes(*bytes);
    }
}
