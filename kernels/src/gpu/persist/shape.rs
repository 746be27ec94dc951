//! What a plan makes of persist.wgsl: its text and its constants.

use syn1_model::plan::{Gemv, Op, Piece, Plan, TENSOR_ALIGN, WeightFormat, piece_bytes};
use syn1_model::spec::Activation;

use super::super::activations::RING;
use super::super::gemv::center;
use super::super::program::Program;
use super::super::shader::{File, cached, gathered, stored, variant};
use super::super::weights::Weights;
use super::Work;
use super::admission::Size;
use crate::engine::EngineConfig;

/// The kernel of one plan.
pub(super) struct Shape {
    /// Its WGSL: persist.wgsl and a copy of persist_product.wgsl for each product of a layer, and for a loop's head.
    pub(super) text: String,
    /// The values of the text's overrides.
    pub(super) overrides: Vec<(String, f64)>,
    /// Slots of `wire`.
    pub(super) slots: usize,
}

/// What is known of a product when its text is made.
struct Kind {
    name: &'static str,
    tags: Vec<&'static str>,
    slots: usize,
}

impl Shape {
    /// For the `work` of `plan`, on workgroups whose subgroups have `lanes` threads.
    pub(super) fn new(
        plan: &Plan,
        weights: &Weights,
        program: &Program,
        config: &EngineConfig,
        (work, size): (Work, Size),
        lanes: u32,
    ) -> Self {
        let mut maker = Maker { overrides: Vec::new(), kinds: Vec::new(), quads: 1, lanes, size, work };
        let slots = maker.places(plan);
        maker.attention(plan, program, config);
        maker.products(plan, weights);
        let positions = if plan.pieces.contains(&Piece::Positions) { "LEARNED" } else { "ROTATED" };
        let tags = [work.tag(), cached(plan.format.kv()), positions];
        let with = |own: &[&'static str]| [&tags[..], own].concat();
        let inputs = kept(plan.format);
        let mut text =
            repeated(&variant(File::Persist, &with(&[gathered(plan.format.tables()).0, inputs])), MOST_SLOTS);
        for Kind { name, tags, slots } in &maker.kinds {
            text += &repeated(&variant(File::PersistProduct, &with(tags)), *slots).replace("KIND", name);
        }
        let mut overrides = maker.overrides;
        // A variant has the overrides that its lines need.
        overrides.retain(|(name, _)| text.contains(&format!("override {name}:")));
        Self { text, overrides, slots }
    }
}

/// `text` with every line that names a SLOT there `slots` times, with the numbers from 0 on.
fn repeated(text: &str, slots: usize) -> String {
    let each = |line: &str| match line.contains("SLOT") {
        true => (0..slots).map(|slot| line.replace("SLOT", &slot.to_string()) + "\n").collect(),
        false => line.to_owned() + "\n",
    };
    text.lines().map(each).collect()
}

/// How a product's inputs are kept beside weights in `format`.
fn kept(format: WeightFormat) -> &'static str {
    match format {
        WeightFormat::F32 | WeightFormat::F16 => "REALS",
        WeightFormat::Int8 | WeightFormat::Int4 => "DIGITS",
    }
}

/// Gathers overrides and products.
struct Maker {
    overrides: Vec<(String, f64)>,
    kinds: Vec<Kind>,
    /// The most inputs of a product, in fours.
    quads: usize,
    lanes: u32,
    size: Size,
    work: Work,
}

impl Maker {
    fn set(&mut self, name: &str, value: f64) {
        self.overrides.push((name.to_owned(), value));
    }

    fn warps(&self) -> usize {
        (self.size.threads / self.lanes) as usize
    }

    /// Where each op leaves its results; gives the number of slots.
    fn places(&mut self, plan: &Plan) -> usize {
        let (spec, groups) = (&plan.spec, self.size.groups as usize);
        let splits = (groups / spec.heads).clamp(1, MOST_SPLITS);
        let mut slots = 0;
        for (name, count) in [
            ("AT_PART", spec.heads * splits * (spec.head_dim / 2 + 1)),
            ("AT_WIN", groups),
            ("AT_Q", spec.qkv_rows() / 4),
            ("AT_A", spec.attention_width() / 4),
            ("AT_X", spec.width / 4),
            ("AT_Y", spec.width / 4),
            ("AT_H", spec.ffn / 4),
        ] {
            self.set(name, slots as f64);
            slots += count.next_multiple_of(8);
        }
        self.set("SPLITS", splits as f64);
        slots
    }

    /// The workgroups, the residual stream, and attention.
    fn attention(&mut self, plan: &Plan, program: &Program, config: &EngineConfig) {
        let spec = &plan.spec;
        let (warps, parts) = (self.warps(), spec.head_dim / 8);
        let kv_element = if plan.format.kv() == WeightFormat::F32 { 8 } else { 4 };
        self.set("THREADS", f64::from(self.size.threads));
        self.set("LANES", f64::from(self.lanes));
        self.set("WARPS", warps as f64);
        self.set("GROUPS", f64::from(self.size.groups));
        self.set("LAYERS", plan.layers.len() as f64);
        self.set("X_QUADS", (spec.width / 4) as f64);
        self.set("OWNED", (spec.width / 2).div_ceil(self.size.groups as usize) as f64);
        self.set("INVERSE", 1.0 / spec.width as f64);
        self.set("ACTIVATION", if spec.activation == Activation::GeluTanh { 1.0 } else { 2.0 });
        self.set("HEAD8", parts as f64);
        self.set("FRESH", (6 * parts) as f64);
        self.set("MERGED", (2 * parts * warps) as f64);
        self.set("HEADS", spec.heads as f64);
        self.set("SHARING", (spec.heads / spec.kv_heads) as f64);
        self.set("KV_HEADS", spec.kv_heads as f64);
        self.set("ROPE_QUADS", program.rotations.first().map_or(0.0, |rotation| f64::from(rotation.quads())));
        self.set("CONTEXT", config.max_positions as f64);
        self.set("KV_LAYER", (program.layout.layer_bytes() / kv_element) as f64);
    }

    /// The products of a layer and the head. All blocks are laid out like the first one.
    fn products(&mut self, plan: &Plan, weights: &Weights) {
        let spec = &plan.spec;
        let quad = |piece: Piece| (weights.place(piece).1 / 16) as f64;
        let first = Piece::Block(plan.layers.start);
        let block_bytes = piece_bytes(spec, plan.format, first).next_multiple_of(TENSOR_ALIGN);
        self.set("BLOCK_STEP", (block_bytes / 16) as f64);
        for op in &plan.ops {
            match op {
                Op::Qkv { layer: 0, gemv, .. } => {
                    self.product("qkv", gemv, false);
                    if let Some(norm) = gemv.norm {
                        self.set("EPS", f64::from(norm.norm.eps));
                        self.set("CENTER", center(norm.norm.kind));
                    }
                }
                Op::Attend { layer: 0, scale, softcap, window } => {
                    self.set("SCALE", f64::from(*scale));
                    self.set("SOFTCAP", f64::from(softcap.unwrap_or(0.0)));
                    self.set("WINDOW", window.map_or(f64::from(u32::MAX), |window| window as f64));
                }
                Op::Out { gemv, .. } if gemv.matrix.data.piece == first => self.product("out", gemv, false),
                Op::Up { gemv, gated, .. } if gemv.matrix.data.piece == first => {
                    self.product("up", gemv, *gated);
                    self.set("WARM", ((block_bytes - gemv.matrix.data.offset).min(FETCHED) / 32) as f64);
                }
                Op::Down { gemv, .. } if gemv.matrix.data.piece == first => self.product("down", gemv, false),
                Op::Head { gemv, softcap } if self.work == Work::Loop => {
                    self.product("head", gemv, false);
                    self.set("CAP", f64::from(softcap.unwrap_or(0.0)));
                    self.set("HEAD_AT", quad(gemv.matrix.data.piece));
                    self.set("HEAD_EXTRA", quad(gemv.aux.piece));
                }
                Op::Step { tokens, positions, scale } if self.work == Work::Loop => {
                    self.set("TOKENS", 4.0 * quad(tokens.data.piece));
                    self.set("TOKEN_ROW", (tokens.row_bytes() / 4) as f64);
                    self.set("TOKEN_STRIDE", tokens.stride as f64);
                    self.set("POSITIONS", positions.map_or(0.0, |positions| 4.0 * quad(positions.data.piece)));
                    self.set("MODEL_POSITIONS", spec.max_positions as f64);
                    self.set("VOCAB", spec.vocab as f64);
                    self.set("EMBED_SCALE", f64::from(*scale));
                    self.set("KEPT", RING as f64);
                }
                _ => {}
            }
        }
        self.set("QUADS", self.quads as f64);
        self.set("DIGIT_QUADS", (self.quads * 3 / 4) as f64);
        self.set("SPANS", (self.quads / 4) as f64);
    }

    fn product(&mut self, name: &'static str, gemv: &Gemv, gated: bool) {
        let (matrix, lanes, warps) = (&gemv.matrix, self.lanes as usize, self.warps());
        let elements = elements_of(matrix.format);
        let (chunks, quads) = (matrix.stride / elements, matrix.stride / 4);
        let units = matrix.rows.div_ceil(2) / if gated { 2 } else { 1 };
        // Subgroups that would have no rows share those of others, as far as there are inputs for them.
        let most = units.div_ceil(self.size.groups as usize);
        let mut slices = 1;
        while !gated && name != "head" && most * 2 * slices <= warps && chunks > slices * lanes {
            slices *= 2;
        }
        let slots = chunks.div_ceil(slices * lanes).min(MOST_SLOTS);
        self.quads = self.quads.max(quads);
        for (constant, value) in [
            ("ROWS", matrix.rows),
            ("CHUNKS", chunks),
            ("ROW", matrix.row_bytes() / 16),
            ("AT", matrix.data.offset as usize / 16),
            ("AUX", gemv.aux.offset as usize / 16),
            ("GAMMA", gemv.norm.map_or(0, |norm| norm.gamma.offset as usize / 16)),
            ("QUADS", quads),
            ("PARTS", elements / 4),
            ("UNITS", units),
            ("TEAMS", warps / slices),
            ("SLICES", slices),
            ("PIECES", slots),
            ("STEPS", chunks.div_ceil(slots * slices * lanes)),
            ("ROUNDS", quads.div_ceil(self.size.threads as usize)),
        ] {
            self.set(&format!("{name}_{constant}"), value as f64);
        }
        let norm = if gemv.norm.is_some() { "NORMED" } else { "BARE" };
        let mut tags =
            vec![name, if gated { "GATED" } else { "PLAIN" }, norm, stored(matrix.format).0, kept(matrix.format)];
        tags.extend((name != "head").then_some("BLOCK"));
        tags.extend((name != "qkv").then_some("OTHER"));
        tags.extend(matches!(name, "out" | "down").then_some("ADDS"));
        self.kinds.push(Kind { name, tags, slots });
    }
}

/// Weights in a vec4.
fn elements_of(format: WeightFormat) -> usize {
    match format {
        WeightFormat::F32 => 4,
        WeightFormat::F16 => 8,
        WeightFormat::Int8 => 16,
        WeightFormat::Int4 => 32,
    }
}

/// Chunks of a row that a subgroup's thread has on their way at most: more would take the registers of what computes.
const MOST_SLOTS: usize = 4;

/// Bytes of a layer that are fetched while some workgroups attend: more takes longer than that.
const FETCHED: u64 = 5 << 20;

/// Splits of a context at most.
const MOST_SPLITS: usize = 8;
