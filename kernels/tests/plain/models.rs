//! Small models, one for each way in which the families differ.

use syn1_model::spec::{Activation, Attention, Family, Local, Norm, NormKind, Position, Rope, RopeScaling, Spec};

/// Every way in which the families differ from each other, by name, at sizes that fit no vector.
pub(crate) fn kinds() -> Vec<(&'static str, Spec)> {
    let llama = llama();
    let learned = Spec { position: Position::Learned, ..llama.clone() };
    let rope = |theta, dims| Rope { theta, dims, scaling: RopeScaling::None };
    let gemma = Spec {
        activation: Activation::GeluTanh,
        post_norms: true,
        embed_scale: Some(8.5),
        logit_softcap: Some(3.0),
        tied_head: true,
        ..llama.clone()
    };
    let local = |rope| Some(Local { window: 5, layers: vec![true, true, false], rope });
    let attending = |spec: &Spec, attention| Spec { attention, ..spec.clone() };
    let plain = Attention::default;
    let capped = || Attention { scale: Some(0.3), softcap: Some(1.5), ..plain() };
    let centered = Spec { kv_heads: 1, norm: Norm { kind: NormKind::Layer, eps: 1e-5 }, ..gemma.clone() };
    let all = Attention { qk_norm: true, local: local(Some(rope(50.0, 16))), ..capped() };
    vec![
        ("rotation and a gate", llama.clone()),
        ("rotation of a part of each head", Spec { position: Position::Rope(rope(1e4, 8)), ..llama.clone() }),
        ("a window", attending(&llama, Attention { local: local(None), ..plain() })),
        ("normed heads", attending(&llama, Attention { qk_norm: true, ..plain() })),
        ("normed heads, learned positions", attending(&learned, Attention { qk_norm: true, ..plain() })),
        ("norms behind, and caps", attending(&gemma, capped())),
        ("all at once", attending(&centered, all)),
    ]
}

fn llama() -> Spec {
    Spec {
        family: Family::Llama,
        layers: 3,
        width: 90,
        heads: 6,
        kv_heads: 2,
        head_dim: 24,
        ffn: 101,
        vocab: 333,
        max_positions: 96,
        norm: Norm { kind: NormKind::Rms, eps: 1e-6 },
        position: Position::Rope(Rope { theta: 1e4, dims: 24, scaling: RopeScaling::Linear { factor: 2.0 } }),
        activation: Activation::Silu,
        gated: true,
        attention: Attention::default(),
        post_norms: false,
        embed_scale: None,
        logit_softcap: None,
        tied_head: false,
        eos: vec![],
    }
}
