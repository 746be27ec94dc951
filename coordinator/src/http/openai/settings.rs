//! What both kinds of completion can be asked: how tokens are chosen, how many, and how they are sent.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::fields::Fields;
use super::models;
use crate::http::error::ApiError;
use crate::limits::{MAX_BIASES, MAX_CHOICES};
use crate::request::Generate;
use crate::sample::{Sampling, fresh_seed};
use crate::server::Shared;

/// The common settings of a request. Defaults are OpenAI's.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    sampling: Sampling,
    stop: Vec<String>,
    ignore_eos: bool,
    /// Answers to each prompt.
    pub(super) n: usize,
    /// Whether tokens are sent as they come.
    pub(super) stream: bool,
    /// Whether a stream ends with what it took.
    pub(super) include_usage: bool,
}

/// A string, or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Several(Vec<String>),
}

impl Settings {
    /// Takes them from a request, and lets go of what changes nothing.
    pub(super) fn take(fields: &mut Fields, shared: &Shared) -> Result<Self, ApiError> {
        if let Some(model) = fields.take::<String>("model")? {
            models::check(shared, &model)?;
        }
        let mut sampling = Sampling {
            temperature: fields.within("temperature", 0.0, 2.0)?.unwrap_or(1.0),
            top_p: fields.within("top_p", 0.0, 1.0)?.unwrap_or(1.0),
            top_k: fields.take("top_k")?.unwrap_or(0),
            min_p: fields.within("min_p", 0.0, 1.0)?.unwrap_or(0.0),
            presence_penalty: fields.within("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            frequency_penalty: fields.within("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0),
            repetition_penalty: fields.within("repetition_penalty", 0.01, 100.0)?.unwrap_or(1.0),
            logit_bias: fields.take::<BTreeMap<u32, f32>>("logit_bias")?.unwrap_or_default(),
            logprobs: None,
            // Any number is as good as another, negative ones too.
            seed: fields.take::<i64>("seed")?.map_or_else(fresh_seed, i64::cast_unsigned),
        };
        if sampling.logit_bias.len() > MAX_BIASES {
            let why = format!("logit_bias names {} tokens: at most {MAX_BIASES}", sampling.logit_bias.len());
            return Err(ApiError::field("logit_bias", why));
        }
        sampling.logit_bias.retain(|_, bias| *bias != 0.0);
        let stop = match fields.take("stop")? {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Several(stops)) => stops,
        };
        let n = fields.within("n", 1, MAX_CHOICES)?.unwrap_or(1);
        let stream = fields.take("stream")?.unwrap_or(false);
        let include_usage = match fields.take("stream_options")? {
            None => false,
            Some(_) if !stream => {
                return Err(ApiError::field("stream_options", "stream_options is only possible with stream: true"));
            }
            Some(options) => {
                let mut options = Fields::of("stream_options", options)?;
                let include_usage = options.take("include_usage")?.unwrap_or(false);
                // Padding against eavesdroppers, which changes no text.
                options.ignore(&["include_obfuscation"]);
                options.end()?;
                include_usage
            }
        };
        let ignore_eos = fields.take("ignore_eos")?.unwrap_or(false);
        fields.ignore(&HARMLESS);
        Ok(Self { sampling, stop, ignore_eos, n, stream, include_usage })
    }

    /// Asks for log-probabilities, and those of so many of the likeliest tokens.
    pub(super) fn logprobs(&mut self, count: Option<u8>) {
        self.sampling.logprobs = count;
    }

    /// Whether log-probabilities are asked for.
    pub(super) fn wants_logprobs(&self) -> bool {
        self.sampling.logprobs.is_some()
    }

    /// The request for the `choice`th answer to a prompt, from 0 on: each draws other numbers, and the first draws those
    /// that it would draw alone.
    pub(super) fn generate(&self, prompt: Vec<u32>, max_tokens: usize, choice: usize) -> Generate {
        let seed = self.sampling.seed.wrapping_add(choice as u64);
        Generate {
            prompt,
            max_tokens,
            sampling: Sampling { seed, ..self.sampling.clone() },
            stop: self.stop.clone(),
            ignore_eos: self.ignore_eos,
            speculate: 0,
        }
    }
}

/// Fields for OpenAI's own books, caches and queues.
const HARMLESS: [&str; 8] = [
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    // A guess at the answer, to be faster.
    "prediction",
];
