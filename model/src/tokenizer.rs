//! Text and messages to token ids, and ids back to text.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tokenizers::Decoder as _;

use crate::chat::{ChatError, ChatTemplate, Message};
use crate::control::{Control, MARK, Spellings};
use crate::date::Date;
use crate::detokenizer::Detokenizer;
use crate::spec::Spec;
use crate::tokenizer_config::{TokenizerConfig, TokenizerConfigError};

/// The tokenizer of a model, and the chat template that comes with it. Cloning is cheap.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    plain: tokenizers::Tokenizer,
    /// Whether `<0x41>` and the like stand for bytes.
    has_bytes: bool,
    eos: Option<u32>,
    chat: Option<ChatTemplate>,
    spellings: Spellings,
    /// Made when a message first spells a control token: it takes as much memory as `plain`.
    control: OnceLock<Result<Control, String>>,
}

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file that is missing or not a tokenizer.
    #[error("cannot load the tokenizer {}: {reason}", path.display())]
    Load {
        /// The file.
        path: PathBuf,
        /// What its library says.
        reason: String,
    },
    /// A tokenizer of another model.
    #[error(
        "{} is a tokenizer that does not match the vocabulary: it has {size} tokens with ids up to {highest}, the \
         model has {vocab}; take tokenizer.json from the same place as the weights",
        path.display()
    )]
    Vocabulary {
        /// The file.
        path: PathBuf,
        /// Tokens of the tokenizer.
        size: usize,
        /// Its highest id.
        highest: u32,
        /// Rows of the model's embedding.
        vocab: usize,
    },
    /// The settings beside it.
    #[error(transparent)]
    Config(#[from] TokenizerConfigError),
    /// The chat template beside it.
    #[error(transparent)]
    Chat(Box<ChatError>),
    /// A text that cannot be encoded.
    #[error("cannot encode the text: {0}")]
    Encode(String),
    /// Ids that cannot be decoded.
    #[error("cannot decode the ids: {0}")]
    Decode(String),
}

impl Tokenizer {
    /// The tokenizer of a model's folder, with what `tokenizer_config.json` and `chat_template.jinja` say; `None` if there is
    /// no `tokenizer.json`.
    ///
    /// # Errors
    /// Those of [`load`](Self::load); a damaged file beside it.
    pub fn open(folder: &Path, spec: &Spec) -> Result<Option<Self>, TokenizerError> {
        let path = folder.join("tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let plain = read(&path, spec)?;
        let config = TokenizerConfig::load(folder)?;
        let eos = config.tokens.get("eos_token").and_then(|token| plain.token_to_id(token));
        let chat = ChatTemplate::load(folder, config).map_err(|error| TokenizerError::Chat(Box::new(error)))?;
        Ok(Some(Self::new(plain, eos, chat)))
    }

    /// Loads a `tokenizer.json` for the model of `spec`, and nothing beside it.
    ///
    /// # Errors
    /// A file that is not a tokenizer, or one whose ids are not the model's: a token beyond the model's vocabulary, or
    /// fewer tokens than half of it (padding of the embedding is never that large).
    pub fn load(path: &Path, spec: &Spec) -> Result<Self, TokenizerError> {
        Ok(Self::new(read(path, spec)?, None, None))
    }

    fn new(plain: tokenizers::Tokenizer, eos: Option<u32>, chat: Option<ChatTemplate>) -> Self {
        let spelled = plain.get_decoder().and_then(|decoder| decoder.decode(vec!["<0x41>".into()]).ok());
        let has_bytes = spelled.is_some_and(|text| text == "A");
        let (spellings, control) = (Spellings::new(&plain), OnceLock::new());
        Self { inner: Arc::new(Inner { plain, has_bytes, eos, chat, spellings, control }) }
    }

    /// The ids of a text, with what the tokenizer puts around a text (GPT-2: nothing).
    ///
    /// # Errors
    /// A text that the tokenizer's model cannot express.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_as(text, true)
    }

    /// The ids of a conversation up to where the model's answer begins: the chat template's text, to which nothing is
    /// added, since the template writes its control tokens itself. `date` is what a template that asks for today's is told.
    ///
    /// A control token (one that `tokenizer.json` calls special) that a *message* spells is encoded as plain text, so
    /// that nobody ends a turn, or speaks as the system, from within a message. transformers does so only when asked, with
    /// `sanitize_control_tokens`. Added tokens that are not special (Qwen's `<think>`) stay tokens wherever they stand.
    ///
    /// # Errors
    /// A model without a chat template; those of [`ChatTemplate::render`]; a message with U+FDD0, which marks such spellings.
    pub fn encode_chat(&self, messages: &[Message], date: Date) -> Result<Vec<u32>, ChatError> {
        let template = self.inner.chat.as_ref().ok_or(ChatError::NoTemplate)?;
        if messages.iter().any(|message| message.content.contains(MARK)) {
            return Err(ChatError::Marker);
        }
        let marked: Vec<Option<String>> =
            messages.iter().map(|message| self.inner.spellings.marked(&message.content)).collect();
        if marked.iter().all(Option::is_none) {
            return Ok(self.encode_as(&template.render(messages, true, date)?, false)?);
        }
        let with = |(message, marked): (&Message, Option<String>)| {
            Message::new(&*message.role, marked.unwrap_or_else(|| message.content.clone()))
        };
        let messages: Vec<Message> = messages.iter().zip(marked).map(with).collect();
        let text = template.render(&messages, true, date)?;
        let control = self.inner.control.get_or_init(|| Control::new(&self.inner.plain).map_err(|e| e.to_string()));
        let control = control.as_ref().map_err(|why| TokenizerError::Encode(why.clone()))?;
        let ids = control.encode(&text, &self.inner.spellings);
        Ok(ids.map_err(|error| TokenizerError::Encode(error.to_string()))?)
    }

    /// The model's chat template, if it has one.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.inner.chat.as_ref()
    }

    /// The id of `tokenizer_config.json`'s `eos_token`: a chat model's end of turn, which its configuration may not name.
    pub fn eos(&self) -> Option<u32> {
        self.inner.eos
    }

    fn encode_as(&self, text: &str, around: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.plain.encode_fast(text, around);
        encoding.map(|found| found.get_ids().to_vec()).map_err(|error| TokenizerError::Encode(error.to_string()))
    }

    /// The text of ids. Special tokens and ids without a token give no text; bytes that are not UTF-8 give U+FFFD.
    ///
    /// # Errors
    /// A tokenizer whose decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        self.inner.plain.decode(ids, true).map_err(|error| TokenizerError::Decode(error.to_string()))
    }

    /// The token's own spelling, for showing distributions to people.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.plain.id_to_token(id)
    }

    /// The id of a token by its spelling.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.plain.token_to_id(token)
    }

    /// A stream of text for a stream of ids.
    pub fn detokenizer(&self) -> Detokenizer {
        self.detokenizer_after(&[])
    }

    /// A stream of text for a stream of ids that follow those of `before`, whose text is not part of it.
    pub fn detokenizer_after(&self, before: &[u32]) -> Detokenizer {
        Detokenizer::new(self.clone(), before)
    }

    /// The token's spelling, if it can give text: special tokens give none.
    pub(crate) fn with_text(&self, id: u32) -> Option<String> {
        let special = |token: &str| self.inner.plain.get_added_vocabulary().is_special_token(token);
        self.token(id).filter(|token| !special(token))
    }

    /// The byte that a token stands for, `<0x41>` say.
    pub(crate) fn byte(&self, token: &str) -> Option<u8> {
        let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
        let is_byte = self.inner.has_bytes && digits.len() == 2;
        u8::from_str_radix(digits, 16).ok().filter(|_| is_byte)
    }

    /// The text of tokens with text: [`decode`](Self::decode) by their spellings.
    pub(crate) fn spell(&self, tokens: &[String]) -> Result<String, TokenizerError> {
        match self.inner.plain.get_decoder() {
            Some(decoder) => decoder.decode(tokens.to_vec()).map_err(|error| TokenizerError::Decode(error.to_string())),
            None => Ok(tokens.join(" ")),
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.inner.plain.get_vocab_size(true))
    }
}

/// Reads a `tokenizer.json` that fits the model of `spec`.
fn read(path: &Path, spec: &Spec) -> Result<tokenizers::Tokenizer, TokenizerError> {
    let load = |error: tokenizers::Error| TokenizerError::Load { path: path.into(), reason: error.to_string() };
    let mut plain = tokenizers::Tokenizer::from_file(path).map_err(load)?;
    // A file may carry the settings of its training run, which would silently cut or pad prompts.
    plain.with_truncation(None).map_err(load)?;
    plain.with_padding(None);

    let ids = plain.get_vocab(true);
    let (size, highest) = (ids.len(), ids.values().copied().max().unwrap_or(0));
    if highest as usize >= spec.vocab || size > spec.vocab || size < spec.vocab.div_ceil(2) {
        return Err(TokenizerError::Vocabulary { path: path.into(), size, highest, vocab: spec.vocab });
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::bundled_tokenizer as bundled;

    fn golden() -> Vec<(String, Vec<u32>, Vec<u32>, String)> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/golden.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("golden")).expect("JSON");
        let ids = |value: &serde_json::Value| serde_json::from_value::<Vec<u32>>(value.clone()).expect("ids");
        let text = |value: &serde_json::Value| value.as_str().expect("text").to_string();
        let cases = golden["cases"].as_array().expect("cases").iter();
        cases.map(|c| (text(&c["prompt"]), ids(&c["ids"]), ids(&c["greedy_64"]), text(&c["text"]))).collect()
    }

    #[test]
    fn golden_prompts_and_texts() {
        let (tokenizer, _) = bundled();
        let cases = golden();
        assert_eq!(cases.len(), 8);
        for (prompt, ids, greedy, text) in cases {
            assert_eq!(tokenizer.encode(&prompt).expect("encode"), ids, "{prompt}");
            let all = [ids, greedy].concat();
            assert_eq!(tokenizer.decode(&all).expect("decode"), text);
        }
    }

    #[test]
    fn a_tokenizer_of_another_model_is_refused_with_both_sizes() {
        let (_, spec) = bundled();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/tokenizer.json");
        for vocab in [1000, 4095, 50_257] {
            let other = Spec { vocab, ..spec.clone() };
            let text = Tokenizer::load(&path, &other).expect_err("mismatch").to_string();
            assert!(text.contains("a tokenizer that does not match the vocabulary"), "{text}");
            assert!(text.contains("4096") && text.contains(&vocab.to_string()), "{text}");
        }
        // Embeddings are often padded to a round number of rows.
        assert!(Tokenizer::load(&path, &Spec { vocab: 4224, ..spec }).is_ok());
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_named() {
        let (_, spec) = bundled();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/config.json");
        let text = Tokenizer::load(&path, &spec).expect_err("no tokenizer").to_string();
        assert!(text.contains("config.json"), "{text}");
    }

    #[test]
    fn training_truncation_in_the_file_does_not_cut_prompts() {
        let (plain, spec) = bundled();
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny-rust-docs/tokenizer.json");
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).expect("read")).expect("JSON");
        json["truncation"] =
            serde_json::json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0});
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), json.to_string()).expect("write");
        let text = "one two three four five six seven eight nine ten";
        let cut = Tokenizer::load(file.path(), &spec).expect("load");
        assert_eq!(cut.encode(text).expect("encode"), plain.encode(text).expect("encode"));
    }
}
