// SYN1, the wire protocol of a language model that runs across devices, for C. Made from syn1-c's sources by cbindgen.
//
// Rules of every call: a pointer is null or points to as many values as the number beside it says; memory that a call
// writes is named by one pointer of it only; an object is used by one thread at a time; buffers, texts and the identity
// that an object was given stay where they are while it is used. What can be checked is checked and gives an error.
//
// An object (syn1_decoder, syn1_session, syn1_outbound, syn1_inbound) is memory of yours: static, on the stack, or in a
// struct of your own. It is set up by its `_init`, is never freed, and may be set up again. It must not be copied.


#ifndef SYN1_H
#define SYN1_H

#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX == 0xFFFFFFFF
#define SYN1_32_BIT
#elif UINTPTR_MAX == 0xFFFFFFFFFFFFFFFF
#define SYN1_64_BIT
#else
#error "SYN1 needs addresses of 32 or 64 bits"
#endif


// Bytes that a row takes in q8 beyond its values.
#define SYN1_Q8_OVERHEAD 36

// The codecs of activations, as a Hello offers them: the bits `1 << SYN1_CODEC_...`.
#define SYN1_CODECS_ACTIVATIONS 30

// Bytes of a header.
#define SYN1_HEADER_LEN 24

// The longest payload of a control frame.
#define SYN1_MAX_CONTROL 1024

#if defined(SYN1_64_BIT)
// Words of 8 bytes in a `syn1_decoder`.
#define SYN1_DECODER_WORDS 12
#endif

#if defined(SYN1_32_BIT)
// Words of 8 bytes in a `syn1_decoder`.
#define SYN1_DECODER_WORDS 8
#endif

#if defined(SYN1_64_BIT)
// Words of 8 bytes in a `syn1_session`.
#define SYN1_SESSION_WORDS 54
#endif

#if defined(SYN1_32_BIT)
// Words of 8 bytes in a `syn1_session`.
#define SYN1_SESSION_WORDS 50
#endif

#if defined(SYN1_64_BIT)
// Words of 8 bytes in a `syn1_outbound`.
#define SYN1_OUTBOUND_WORDS 8
#endif

#if defined(SYN1_32_BIT)
// Words of 8 bytes in a `syn1_outbound`.
#define SYN1_OUTBOUND_WORDS 6
#endif

#if defined(SYN1_64_BIT)
// Words of 8 bytes in a `syn1_inbound`.
#define SYN1_INBOUND_WORDS 6
#endif

#if defined(SYN1_32_BIT)
// Words of 8 bytes in a `syn1_inbound`.
#define SYN1_INBOUND_WORDS 5
#endif

// Bytes of the longest frame that a session writes by itself: a Hello with an agent of 256 bytes. Frames of
// `syn1_session_leave` are shorter.
#define SYN1_SESSION_FRAME 400

// What came of a call. `SYN1_OK`, `SYN1_MORE` and `SYN1_SKIP` are no errors; numbers only get more.
enum syn1_error
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : uint8_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  SYN1_OK = 0,
  // No error: nothing is there yet, or nothing more.
  SYN1_MORE = 1,
  // No error: a frame to pass over.
  SYN1_SKIP = 2,
  // A pointer is null that must not be.
  SYN1_ERROR_NULL = 3,
  // A pointer is not aligned for what it points to.
  SYN1_ERROR_ALIGNMENT = 4,
  // No object in memory is that long.
  SYN1_ERROR_RANGE = 5,
  // The object was not initialised, or is one of another kind.
  SYN1_ERROR_OBJECT = 6,
  // A text is not UTF-8.
  SYN1_ERROR_TEXT = 7,
  // A number that its type does not have.
  SYN1_ERROR_VALUE = 8,
  // The first bytes are not SYN1: the peer speaks another protocol.
  SYN1_ERROR_HEADER_MAGIC = 9,
  // The peer speaks another major version: update the older of the two.
  SYN1_ERROR_HEADER_VERSION = 10,
  // The frame's kind is unknown and not ignorable: update this end.
  SYN1_ERROR_HEADER_KIND = 11,
  // The frame has reserved flags set.
  SYN1_ERROR_HEADER_RESERVED_FLAGS = 12,
  // The frame's codec is unknown: update this end.
  SYN1_ERROR_HEADER_CODEC = 13,
  // The frame has flags that the Hellos did not both offer.
  SYN1_ERROR_HEADER_NOT_NEGOTIATED = 14,
  // Frames of this kind do not have these flags.
  SYN1_ERROR_HEADER_FLAGS_OF_KIND = 15,
  // The flag quantized contradicts the codec.
  SYN1_ERROR_HEADER_QUANTIZED = 16,
  // Frames of this kind do not travel in this codec.
  SYN1_ERROR_HEADER_CODEC_OF_KIND = 17,
  // Rows of this codec can't be delta or compressed like that.
  SYN1_ERROR_HEADER_FLAGS_OF_CODEC = 18,
  // A control frame's epoch, position, request, rows and cols must be 0.
  SYN1_ERROR_HEADER_CONTROL_FIELDS = 19,
  // A data frame before the model is known: Hello and Model come first.
  SYN1_ERROR_HEADER_NO_MODEL = 20,
  // More rows than agreed, or none.
  SYN1_ERROR_HEADER_ROWS = 21,
  // The rows pass the last position.
  SYN1_ERROR_HEADER_POSITION = 22,
  // Rows and columns do not fit the model.
  SYN1_ERROR_HEADER_SHAPE = 23,
  // The payload is not as long as its shape needs.
  SYN1_ERROR_HEADER_LENGTH = 24,
  // The payload is longer than agreed.
  SYN1_ERROR_HEADER_TOO_LONG = 25,
  // The stream or message ends inside a frame.
  SYN1_ERROR_DECODE_TORN = 26,
  // A frame is longer than the receive buffer: make it larger.
  SYN1_ERROR_DECODE_BUFFER = 27,
  // More bytes were committed than there was room for.
  SYN1_ERROR_DECODE_OVERCOMMITTED = 28,
  // The payload is not as long as its header says.
  SYN1_ERROR_ENCODE_LENGTH = 29,
  // The frame does not fit the send buffer: make it larger.
  SYN1_ERROR_ENCODE_BUFFER = 30,
  // The control message is unknown: update this end.
  SYN1_ERROR_CONTROL_UNKNOWN = 31,
  // A control message's fields end early or hold what they can't.
  SYN1_ERROR_CONTROL_MALFORMED = 32,
  // Bytes follow a control message.
  SYN1_ERROR_CONTROL_TRAILING = 33,
  // The control message does not fit the buffer: SYN1_MAX_CONTROL bytes are always enough.
  SYN1_ERROR_CONTROL_BUFFER = 34,
  // Activations do not travel in this codec: use f32, f16, q8 or q4.
  SYN1_ERROR_CODEC_NOT_ACTIVATION = 35,
  // The values are not whole rows.
  SYN1_ERROR_CODEC_SHAPE = 36,
  // The output is not as long as the shape needs.
  SYN1_ERROR_CODEC_BUFFER = 37,
  // The payload is not as long as the shape needs.
  SYN1_ERROR_CODEC_LENGTH = 38,
  // The shape needs more than 4 GiB: send fewer rows a frame.
  SYN1_ERROR_CODEC_TOO_MANY_BYTES = 39,
  // A value is NaN or infinite: the layer before it computed garbage.
  SYN1_ERROR_CODEC_NOT_FINITE = 40,
  // A magnitude is above 65504: send this frame as f32.
  SYN1_ERROR_CODEC_TOO_LARGE = 41,
  // A scale is negative, no number, or too large.
  SYN1_ERROR_CODEC_SCALE = 42,
  // A side slot names a column out of range or out of order.
  SYN1_ERROR_CODEC_SIDE_INDEX = 43,
  // A side slot repeats a column with another value.
  SYN1_ERROR_CODEC_SIDE_VALUE = 44,
  // A q8 body holds -128.
  SYN1_ERROR_CODEC_MINUS_128 = 45,
  // A q4 body holds -8.
  SYN1_ERROR_CODEC_MINUS_8 = 46,
  // Padding is not 0.
  SYN1_ERROR_CODEC_PADDING = 47,
  // The delta frame goes on from a row that is not the one held here.
  SYN1_ERROR_CODEC_REFERENCE = 48,
  // A delta row's weight is out of range.
  SYN1_ERROR_CODEC_WEIGHT = 49,
  // A compressed row's table does not exist.
  SYN1_ERROR_CODEC_TABLE = 50,
  // A compressed payload's stream is not one that an encoder writes.
  SYN1_ERROR_CODEC_ENTROPY = 51,
  // More of the most likely tokens than the vocabulary has, or none.
  SYN1_ERROR_OUTPUT_TOP = 52,
  // The output buffer is too short.
  SYN1_ERROR_OUTPUT_BUFFER = 53,
  // The payload is not whole rows.
  SYN1_ERROR_OUTPUT_LENGTH = 54,
  // A row's log-sum-exp is not finite, or its reserved word is not 0.
  SYN1_ERROR_OUTPUT_HEAD = 55,
  // A logit is NaN or infinite: a layer before it computed garbage.
  SYN1_ERROR_OUTPUT_NOT_FINITE = 56,
  // A token id is outside the vocabulary.
  SYN1_ERROR_OUTPUT_ID = 57,
  // A token of the output is out of order.
  SYN1_ERROR_OUTPUT_ORDER = 58,
  // The peer sent no Hello in time: is it syn1?.
  SYN1_ERROR_SESSION_NO_HELLO = 59,
  // The peer did not prove its key in time.
  SYN1_ERROR_SESSION_NO_PROOF = 60,
  // The peer was silent for too long.
  SYN1_ERROR_SESSION_SILENT = 61,
  // The peer sent something before its Hello.
  SYN1_ERROR_SESSION_BEFORE_HELLO = 62,
  // The peer sent a second Hello.
  SYN1_ERROR_SESSION_SECOND_HELLO = 63,
  // Both ends of the link have the same role: join a coordinator with a node.
  SYN1_ERROR_SESSION_SAME_ROLE = 64,
  // No minor version in common: update the older of the two.
  SYN1_ERROR_SESSION_NO_COMMON_MINOR = 65,
  // Both ends must offer f32.
  SYN1_ERROR_SESSION_NO_COMMON_CODEC = 66,
  // The limits of both ends leave room for no data frame.
  SYN1_ERROR_SESSION_NOTHING_FITS = 67,
  // The ends want different models: give both the same manifest.
  SYN1_ERROR_SESSION_OTHER_MODEL = 68,
  // The peer did not prove a key, which this end asks for.
  SYN1_ERROR_SESSION_ANONYMOUS = 69,
  // The peer sent something before the proof of its key.
  SYN1_ERROR_SESSION_UNPROVEN = 70,
  // The peer's proof is not signed by the key that it names.
  SYN1_ERROR_SESSION_FORGED = 71,
  // The peer sent a proof that was not due.
  SYN1_ERROR_SESSION_STRAY_PROOF = 72,
  // The peer sent more data frames than were granted.
  SYN1_ERROR_SESSION_NO_CREDIT = 73,
  // The peer granted more data frames than its Hello gave.
  SYN1_ERROR_SESSION_OVERGRANTED = 74,
  // The peer sent an activation in a codec that was not agreed.
  SYN1_ERROR_SESSION_CODEC = 75,
  // The peer sent what only this end may send.
  SYN1_ERROR_SESSION_WRONG_WAY = 76,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum syn1_error syn1_error;
#else
typedef uint8_t syn1_error;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// The sending end of one request's activations; set up by `syn1_outbound_init`.
typedef struct syn1_outbound {
  uint64_t opaque[SYN1_OUTBOUND_WORDS];
} syn1_outbound;

// How a payload's numbers are written: one of `SYN1_CODEC_...`.
typedef uint8_t syn1_codec;

// How a payload was made: `SYN1_FLAG_...`, added up.
typedef uint8_t syn1_flags;

// How a frame of activations is to be made.
typedef struct syn1_place {
  // The request.
  uint32_t request;
  // The position of the first row.
  uint32_t position;
  // The incarnation of the request's route.
  uint8_t epoch;
  // 1: rows of tokens that are not accepted yet; else 0.
  uint8_t predicted;
  // The codec.
  syn1_codec codec;
  // `SYN1_FLAG_DELTA` and `SYN1_FLAG_COMPRESSED` as they are wanted.
  syn1_flags flags;
} syn1_place;

// What a payload means: one of `SYN1_KIND_...`.
typedef uint8_t syn1_kind;

// The 24 bytes in front of every payload, as numbers.
typedef struct syn1_header {
  // What the payload means.
  syn1_kind kind;
  // How the payload was made.
  syn1_flags flags;
  // How the payload's numbers are written.
  syn1_codec codec;
  // The incarnation of the request's route.
  uint8_t epoch;
  // Position of the first row in the request's context.
  uint32_t position;
  // Which request, among those open on this link.
  uint32_t request;
  // Bytes after the header.
  uint32_t payload_len;
  // Positions in the payload.
  uint16_t rows;
  // Numbers per position.
  uint16_t cols;
} syn1_header;

// The receiving end of one request's activations; set up by `syn1_inbound_init`.
typedef struct syn1_inbound {
  uint64_t opaque[SYN1_INBOUND_WORDS];
} syn1_inbound;

// A header and its payload, which lies in the buffer that the frame was found in.
typedef struct syn1_frame {
  // What the payload is.
  struct syn1_header header;
  // `header.payload_len` bytes.
  const uint8_t *payload;
} syn1_frame;

// Which message it is: one of `SYN1_MESSAGE_...`.
typedef uint8_t syn1_message;

// A text in UTF-8, without a zero byte at its end.
typedef struct syn1_text {
  // Its first byte; may be null where `len` is 0.
  const char *data;
  // Its bytes.
  size_t len;
} syn1_text;

// What an end of a link is: one of `SYN1_ROLE_...`.
typedef uint8_t syn1_role;

// Who is there and what it can do.
typedef struct syn1_hello {
  // Program and version, for logs.
  struct syn1_text agent;
  // The codecs that the sender can receive: the bits `1 << SYN1_CODEC_...`.
  uint32_t codecs;
  // Longest data payload that the sender can receive, in bytes.
  uint32_t max_payload;
  // Most rows of a data frame that the sender can receive.
  uint16_t max_rows;
  // Data frames that a node takes before it grants more.
  uint16_t credit;
  // Lowest protocol minor that the sender speaks.
  uint8_t minor_min;
  // Highest protocol minor that the sender speaks.
  uint8_t minor_max;
  // What the sender is.
  syn1_role role;
  // The negotiable flags that the sender can receive.
  syn1_flags flags;
  // SHA-256 of the manifest of the only model that the sender wants; zeros: any.
  uint8_t model[32];
  // The sender's public key; zeros: none.
  uint8_t key[32];
  // Fresh random bytes, which the peer's proof must name.
  uint8_t nonce[32];
} syn1_hello;

// Why a link is closed: one of `SYN1_REASON_...`.
typedef uint8_t syn1_reason;

// The last message of a link.
typedef struct syn1_bye {
  // Why, for people.
  struct syn1_text text;
  // Why, for programs.
  syn1_reason reason;
} syn1_bye;

// What will run.
typedef struct syn1_model {
  // The model's name.
  struct syn1_text name;
  // Entries of the vocabulary.
  uint32_t vocab;
  // Where the coordinator's host serves shards over HTTP.
  uint16_t http_port;
  // Elements of an activation row.
  uint16_t width;
  // Transformer blocks.
  uint16_t layers;
  // SHA-256 of the manifest, which names every piece by its own SHA-256.
  uint8_t manifest_sha256[32];
} syn1_model;

// What a node is and how fast.
typedef struct syn1_profile {
  // The node's name.
  struct syn1_text name;
  // The device that computes.
  struct syn1_text device;
  // Bytes that the node could allocate for weights and KV cache.
  uint64_t memory_bytes;
  // Measured read bandwidth, bytes per second.
  uint64_t read_bytes_per_s;
  // Measured nanoseconds per layer of the model's shape, one row.
  uint64_t layer_ns;
} syn1_profile;

// Which layers to hold.
typedef struct syn1_assign {
  // Number of the placement; a higher one replaces a lower one.
  uint32_t generation;
  // Positions of KV cache per request.
  uint32_t max_positions;
  // First layer.
  uint16_t first_layer;
  // One behind the last layer.
  uint16_t end_layer;
  // Requests open at a time.
  uint16_t slots;
  // Most rows of one data frame.
  uint16_t max_rows;
} syn1_assign;

// How much of a shard is there.
typedef struct syn1_loading {
  // Bytes there.
  uint64_t done_bytes;
  // Bytes of the shard.
  uint64_t total_bytes;
  // The placement.
  uint32_t generation;
} syn1_loading;

// A shard is verified and the engine warmed up.
typedef struct syn1_loaded {
  // Bytes that had to be fetched.
  uint64_t fetched_bytes;
  // Measured nanoseconds per layer with the real weights, one row.
  uint64_t layer_ns;
  // The placement.
  uint32_t generation;
  // Requests that fit at a time.
  uint16_t slots;
} syn1_loaded;

// What the last node of a route answers with: one of `SYN1_OUTPUT_...`.
typedef uint8_t syn1_output;

// A request begins.
typedef struct syn1_open {
  // The request, a number that is unique on this link while it is open.
  uint32_t request;
  // Rows at this position and later give outputs.
  uint32_t wanted_from;
  // How many of the most likely tokens; with `SYN1_OUTPUT_TOP`.
  uint16_t k;
  // What the last node answers with.
  syn1_output output;
  // The incarnation of its route.
  uint8_t epoch;
  // The codec of the activations that the node sends.
  syn1_codec codec;
  // How the node makes those activations: compressed, delta.
  syn1_flags flags;
} syn1_open;

// A request can't go on.
typedef struct syn1_failed {
  // Why, for people.
  struct syn1_text text;
  // The request.
  uint32_t request;
  // The incarnation of its route.
  uint8_t epoch;
} syn1_failed;

// An assignment can't be taken.
typedef struct syn1_unable {
  // Why, for people.
  struct syn1_text text;
  // The placement.
  uint32_t generation;
} syn1_unable;

// A request is closed and its KV cache free.
typedef struct syn1_closed {
  // Microseconds that the engine computed for it.
  uint64_t compute_us;
  // The request.
  uint32_t request;
} syn1_closed;

// The fields of a message: those that its number says.
typedef union syn1_body {
  // A Hello's.
  struct syn1_hello hello;
  // A Bye's.
  struct syn1_bye bye;
  // A Ping's or Pong's.
  uint64_t number;
  // A Model's.
  struct syn1_model model;
  // A Profile's.
  struct syn1_profile profile;
  // An Assign's.
  struct syn1_assign assign;
  // A Loading's.
  struct syn1_loading loading;
  // A Loaded's.
  struct syn1_loaded loaded;
  // An Open's.
  struct syn1_open open;
  // A Close's.
  uint32_t request;
  // A Failed's.
  struct syn1_failed failed;
  // An Unable's.
  struct syn1_unable unable;
  // A Closed's.
  struct syn1_closed closed;
  // A Prove's: Ed25519 over what the session chose.
  uint8_t signature[64];
  // A Grant's: data frames.
  uint16_t frames;
} syn1_body;

// A control message.
typedef struct syn1_control {
  // Which it is.
  syn1_message message;
  // Its fields.
  union syn1_body body;
} syn1_control;

// Finds frames in a stream of bytes; set up by `syn1_decoder_init`.
typedef struct syn1_decoder {
  uint64_t opaque[SYN1_DECODER_WORDS];
} syn1_decoder;

// What a receiver accepts at this moment.
typedef struct syn1_limits {
  // Longest payload of a data frame, in bytes.
  uint32_t max_payload;
  // Entries of the vocabulary; 0 while no model is known.
  uint32_t vocab;
  // Most rows of a data frame.
  uint16_t max_rows;
  // Elements of an activation row; 0 while no model is known.
  uint16_t width;
  // The negotiated flags.
  syn1_flags flags;
} syn1_limits;

// Where bytes may be written.
typedef struct syn1_room {
  // The first of them.
  uint8_t *data;
  // How many.
  size_t len;
} syn1_room;

// The state of one link; set up by `syn1_session_init`.
typedef struct syn1_session {
  uint64_t opaque[SYN1_SESSION_WORDS];
} syn1_session;

// What this end is and can receive.
typedef struct syn1_session_config {
  // Program and version, for the peer's logs. The session keeps the text, which must outlive it.
  struct syn1_text agent;
  // The codecs that it can receive: the bits `1 << SYN1_CODEC_...`; f32 must be among them.
  uint32_t codecs;
  // The longest data payload that it can receive, in bytes.
  uint32_t max_payload;
  // The most rows of a data frame that it can receive.
  uint16_t max_rows;
  // A node's: the data frames that it holds at a time; at least 1.
  uint16_t credit;
  // What this end is.
  syn1_role role;
  // The negotiable flags that it can receive.
  syn1_flags flags;
  // 1: a peer must prove that it holds a key; else 0.
  uint8_t prove;
  // SHA-256 of the manifest of the only model that it wants; zeros: any.
  uint8_t model[32];
  // Fresh random bytes, which keep an old proof of the peer's from being played again; zeros where nothing is checked.
  uint8_t nonce[32];
} syn1_session_config;

// What is known of a signature: one of `SYN1_VERDICT_...`.
typedef uint8_t syn1_verdict;

// A key, and Ed25519 by whatever library the program has. The session copies it; `context` must outlive the session.
typedef struct syn1_identity {
  // The public key; zeros: none, and `sign` is never called.
  uint8_t key[32];
  // Handed to both functions.
  void *context;
  // Writes the 64 bytes of the signature of `message` by this key.
  void (*sign)(void *context, const uint8_t *message, size_t len, uint8_t *signature);
  // Whether `signature` (64 bytes) is that of `message` by `key` (32 bytes); null: nothing is checked.
  syn1_verdict (*verify)(void *context, const uint8_t *key, const uint8_t *message, size_t len, const uint8_t *signature);
} syn1_identity;

// What a frame meant: one of `SYN1_EVENT_...`.
typedef uint8_t syn1_event_kind;

// What both ends can do.
typedef struct syn1_negotiated {
  // Codecs that payloads may use.
  uint32_t codecs;
  // Longest data payload, in bytes.
  uint32_t max_payload;
  // Most rows of a data frame.
  uint16_t max_rows;
  // Data frames that may be on their way or at work at a time.
  uint16_t credit;
  // The protocol minor.
  uint8_t minor;
  // Flags that frames may carry beside quantized.
  syn1_flags flags;
} syn1_negotiated;

// What belongs to an event: the field that its kind says.
typedef union syn1_event_body {
  // What both ends can do.
  struct syn1_negotiated negotiated;
  // The message; its texts lie in the frame.
  struct syn1_control control;
  // The frame.
  struct syn1_frame frame;
  // Milliseconds from making the ping to its answer.
  uint64_t rtt_ms;
  // Why; its text lies in the frame.
  struct syn1_bye bye;
} syn1_event_body;

// What a frame meant.
typedef struct syn1_event {
  // Which it is.
  syn1_event_kind kind;
  // What belongs to it.
  union syn1_event_body body;
} syn1_event;

// Who the peer is, by its Hello.
typedef struct syn1_peer {
  // Its key; zeros: none.
  uint8_t key[32];
  // SHA-256 of the manifest of the only model that it wants; zeros: any.
  uint8_t model[32];
  // 1: it has proven to hold that key, and this end could check it; else 0.
  uint8_t proven;
} syn1_peer;

// Token ids, from the coordinator to the first node of a route.
#define SYN1_KIND_TOKENS 1

// The residual stream between two nodes.
#define SYN1_KIND_ACTIVATION 2

// Logits or an acknowledgement, from the last node to the coordinator.
#define SYN1_KIND_OUTPUT 3

// A control message.
#define SYN1_KIND_CONTROL 4

// The codec is q8 or q4.
#define SYN1_FLAG_QUANTIZED 1

// Rows are compressed.
#define SYN1_FLAG_COMPRESSED 2

// Rows are differences from rows before.
#define SYN1_FLAG_DELTA 4

// Rows of tokens that are not accepted yet.
#define SYN1_FLAG_PREDICTED 8

// A control message.
#define SYN1_CODEC_BYTES 0

// Binary32.
#define SYN1_CODEC_F32 1

// Binary16.
#define SYN1_CODEC_F16 2

// 8 bits a value.
#define SYN1_CODEC_Q8 3

// 4 bits a value.
#define SYN1_CODEC_Q4 4

// Token ids.
#define SYN1_CODEC_IDS 8

// The most likely tokens.
#define SYN1_CODEC_TOP 9

// The key's holder signed the message.
#define SYN1_VERDICT_VALID 0

// It did not.
#define SYN1_VERDICT_INVALID 1

// This end carries no cryptography.
#define SYN1_VERDICT_UNCHECKED 2

// Who is there and what it can do; `body.hello`.
#define SYN1_MESSAGE_HELLO 0

// The sender closes the link; `body.bye`.
#define SYN1_MESSAGE_BYE 1

// To be answered with a Pong of the same number; `body.number`.
#define SYN1_MESSAGE_PING 2

// The answer to a Ping; `body.number`.
#define SYN1_MESSAGE_PONG 3

// Coordinator to node: what will run; `body.model`.
#define SYN1_MESSAGE_MODEL 4

// Node to coordinator: what it is and how fast; `body.profile`.
#define SYN1_MESSAGE_PROFILE 5

// Coordinator to node: which layers to hold; `body.assign`.
#define SYN1_MESSAGE_ASSIGN 6

// Node to coordinator: how much of its shard is there; `body.loading`.
#define SYN1_MESSAGE_LOADING 7

// Node to coordinator: the shard is verified and the engine warmed up; `body.loaded`.
#define SYN1_MESSAGE_LOADED 8

// Coordinator to node: a request begins; `body.open`.
#define SYN1_MESSAGE_OPEN 9

// Coordinator to node: a request ends; `body.request`.
#define SYN1_MESSAGE_CLOSE 10

// Node to coordinator: a request can't go on; `body.failed`.
#define SYN1_MESSAGE_FAILED 11

// Node to coordinator: an assignment can't be taken; `body.unable`.
#define SYN1_MESSAGE_UNABLE 12

// Node to coordinator: a request is closed; `body.closed`.
#define SYN1_MESSAGE_CLOSED 13

// The sender holds the key that its Hello names; `body.signature`.
#define SYN1_MESSAGE_PROVE 14

// Node to coordinator: that many more data frames may come; `body.frames`.
#define SYN1_MESSAGE_GRANT 15

// Tokenizes, places, routes, samples.
#define SYN1_ROLE_COORDINATOR 0

// Runs layers.
#define SYN1_ROLE_NODE 1

// Nothing is left to do.
#define SYN1_REASON_DONE 0

// No version in common.
#define SYN1_REASON_VERSION 1

// The peer broke a rule.
#define SYN1_REASON_PROTOCOL 2

// The peer said nothing for too long.
#define SYN1_REASON_TIMEOUT 3

// The peer is not wanted here: joining again does not help.
#define SYN1_REASON_REFUSED 4

// The same peer has connected again.
#define SYN1_REASON_REPLACED 5

// The sender is being stopped.
#define SYN1_REASON_SHUTDOWN 6

// The sender has failed.
#define SYN1_REASON_INTERNAL 7

// The k most likely tokens.
#define SYN1_OUTPUT_TOP 0

// All logits.
#define SYN1_OUTPUT_FULL 1

// Nothing for the caller.
#define SYN1_EVENT_NOTHING 0

// The link is open; `body.negotiated`. Send what `syn1_session_poll_transmit` gives before anything else.
#define SYN1_EVENT_ESTABLISHED 1

// A message for the caller; `body.control`.
#define SYN1_EVENT_CONTROL 2

// A data frame for the caller; `body.frame`. A node calls `syn1_session_done` when it has finished with it.
#define SYN1_EVENT_DATA 3

// The node takes more data frames: `syn1_session_take_credit` may be asked again.
#define SYN1_EVENT_GRANTED 4

// The peer answered a ping; `body.rtt_ms`.
#define SYN1_EVENT_RTT 5

// The peer closes the link; `body.bye`.
#define SYN1_EVENT_BYE 6

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Sets up an end that has sent nothing. `rows` holds two rows (2 x width values) where delta is used, `scratch` a frame's
// payload in plain q8 where compressed is; each may be empty otherwise. The object keeps both.
syn1_error syn1_outbound_init(struct syn1_outbound *outbound,
                              float *rows,
                              size_t rows_count,
                              uint8_t *scratch,
                              size_t scratch_len);

// Writes whole rows of `cols` values as the payload of an activation frame; `header` becomes the frame's header, which
// says what was done: values above 65504 go as f32, and what compression does not make shorter goes uncompressed.
syn1_error syn1_outbound_encode(struct syn1_outbound *outbound,
                                const struct syn1_place *place,
                                const float *values,
                                size_t count,
                                uint16_t cols,
                                uint8_t *out,
                                size_t out_len,
                                struct syn1_header *header);

// Sets up an end that has received nothing. `reference` holds one row (width values) where delta is used, and may be
// empty otherwise. The object keeps it.
syn1_error syn1_inbound_init(struct syn1_inbound *inbound, float *reference, size_t count);

// Reads the rows of an activation frame, in any form; `count` must be rows x cols.
syn1_error syn1_inbound_decode(struct syn1_inbound *inbound,
                               const struct syn1_frame *frame,
                               float *values,
                               size_t count);

// The codec that `values` can travel in: `wanted`, or f32 where a magnitude is above 65504. An error where one is not finite.
syn1_error syn1_choose(syn1_codec wanted,
                       const float *values,
                       size_t count,
                       syn1_codec *codec);

// Writes whole rows of `cols` values in a plain codec; `written` becomes the bytes of the payload.
syn1_error syn1_encode(syn1_codec codec,
                       const float *values,
                       size_t count,
                       uint16_t cols,
                       uint8_t *out,
                       size_t out_len,
                       size_t *written);

// Reads a payload of `rows` x `cols` values in a plain codec; `count` must be as many.
syn1_error syn1_decode(syn1_codec codec,
                       const uint8_t *payload,
                       size_t payload_len,
                       uint16_t rows,
                       uint16_t cols,
                       float *values,
                       size_t count);

// Writes one row in q8, which takes `SYN1_Q8_OVERHEAD + cols` bytes: for firmware that needs no other codec.
syn1_error syn1_q8_encode_row(const float *values, size_t cols, uint8_t *out, size_t out_len);

// Reads one row of q8: for firmware that needs no other codec.
syn1_error syn1_q8_decode_row(const uint8_t *row, size_t row_len, float *values, size_t cols);

// Writes `count` token ids, four bytes each.
syn1_error syn1_ids_encode(const uint32_t *tokens, size_t count, uint8_t *out, size_t out_len);

// Reads `count` token ids out of a payload, which must be as long as that.
syn1_error syn1_ids_decode(const uint8_t *payload, size_t payload_len, uint32_t *tokens, size_t count);

// Reads the payload of a control frame. Texts lie in it.
syn1_error syn1_control_decode(const uint8_t *payload, size_t payload_len, struct syn1_control *control);

// Writes a control message with its header into `out`; `written` becomes the bytes of the frame. Texts are cut to 256
// bytes.
syn1_error syn1_control_encode(const struct syn1_control *control, uint8_t *out, size_t out_len, size_t *written);

// Sets up a decoder at the start of a stream. `buffer` must hold the longest frame: a header and `max_payload` bytes, and
// a control frame. The decoder keeps it.
syn1_error syn1_decoder_init(struct syn1_decoder *decoder,
                             uint8_t *buffer,
                             size_t len,
                             const struct syn1_limits *limits);

// What frames must obey from the next one on.
syn1_error syn1_decoder_set_limits(struct syn1_decoder *decoder, const struct syn1_limits *limits);

// Where the next bytes of the stream go; not empty after `syn1_decoder_next` gave `SYN1_MORE`. Frames that were given
// before are gone. Of a decoder that was not set up there is no room.
struct syn1_room syn1_decoder_spare(struct syn1_decoder *decoder);

// Says that the first `count` bytes of that room now hold input.
syn1_error syn1_decoder_commit(struct syn1_decoder *decoder, size_t count);

// The next whole frame, or `SYN1_MORE` when more bytes are needed. Its payload is there until the decoder is used again.
//
// The first error is final: the decoder gives it for ever, because after it no byte can be trusted to start a frame.
syn1_error syn1_decoder_next(struct syn1_decoder *decoder,
                             struct syn1_frame *frame);

// Says that the stream has ended: an error where it ended inside a frame.
syn1_error syn1_decoder_finish(struct syn1_decoder *decoder);

// A line for people: the error's name, a colon, and what is wrong. It ends in a zero byte and lives for ever.
//
// A program that does not call this does not contain the texts.
const char *syn1_error_text(uint8_t error);

// What to tell the peer in a Bye after a session gave this error: one of `SYN1_REASON_...`.
syn1_reason syn1_error_reason(uint8_t error);

// What is acceptable before both Hellos are in: control frames only.
struct syn1_limits syn1_limits_handshake(void);

// Reads and checks the 24 bytes of a header.
//
// `SYN1_SKIP`: a frame that this version does not know and may pass over; only `header->payload_len` means something.
syn1_error syn1_header_parse(const uint8_t *bytes, const struct syn1_limits *limits, struct syn1_header *header);

// Writes the 24 bytes of a header. What they say is not checked beyond that its numbers exist.
syn1_error syn1_header_emit(const struct syn1_header *header, uint8_t *bytes);

// The header of `rows` token ids, the first of which stands at `position`.
struct syn1_header syn1_header_tokens(uint32_t request, uint8_t epoch, uint32_t position, uint16_t rows);

// The header that says: positions below `position` are in the KV cache.
struct syn1_header syn1_header_acknowledge(uint32_t request, uint8_t epoch, uint32_t position);

// The header of `rows` activations of `cols` elements in a plain codec.
syn1_error syn1_header_activation(uint32_t request,
                                  uint8_t epoch,
                                  uint32_t position,
                                  syn1_codec codec,
                                  uint16_t rows,
                                  uint16_t cols,
                                  struct syn1_header *header);

// The header of the `k` most likely tokens after each of `rows` positions.
syn1_error syn1_header_top(uint32_t request,
                           uint8_t epoch,
                           uint32_t position,
                           uint16_t rows,
                           uint16_t k,
                           struct syn1_header *header);

// The header of all `vocab` logits after one position.
syn1_error syn1_header_full(uint32_t request,
                            uint8_t epoch,
                            uint32_t position,
                            uint32_t vocab,
                            struct syn1_header *header);

// Bytes of a payload of `rows` x `cols` numbers in a plain codec.
syn1_error syn1_encoded_len(syn1_codec codec, uint16_t rows, uint16_t cols, uint32_t *len);

// Writes a header and its payload into `out`; `written` becomes the bytes of the frame.
syn1_error syn1_frame_encode(const struct syn1_header *header,
                             const uint8_t *payload,
                             size_t payload_len,
                             uint8_t *out,
                             size_t out_len,
                             size_t *written);

// The frame of a message transport's message: `SYN1_SKIP` where it is one to ignore.
syn1_error syn1_frame_from_message(const uint8_t *message,
                                   size_t len,
                                   const struct syn1_limits *limits,
                                   struct syn1_frame *frame);

// Writes the `k` most likely of all logits; `written` becomes the bytes of the payload.
syn1_error syn1_top_encode(const float *logits,
                           size_t vocab,
                           uint16_t k,
                           uint8_t *out,
                           size_t out_len,
                           size_t *written);

// Checks a payload of the `k` most likely tokens and reads its row number `row`: `k` ids and logits, the most likely
// first, and the logarithm of the sum of `exp(logit)` over the whole vocabulary. `SYN1_MORE`: there is no such row.
syn1_error syn1_top_decode(const uint8_t *payload,
                           size_t payload_len,
                           uint16_t k,
                           uint32_t vocab,
                           size_t row,
                           float *log_sum_exp,
                           uint32_t *ids,
                           float *logits);

// Writes all logits of one position; `written` becomes the bytes of the payload.
syn1_error syn1_full_encode(const float *logits, size_t vocab, uint8_t *out, size_t out_len, size_t *written);

// Reads all logits of one position.
syn1_error syn1_full_decode(const uint8_t *payload, size_t payload_len, float *logits, size_t vocab);

// Sets up a session on a fresh link at the time `now_ms`, with its Hello ready to be sent. Times are milliseconds since an
// origin of the caller's choice that never moves back. `identity` may be null: an end without a key that checks nobody's.
syn1_error syn1_session_init(struct syn1_session *session,
                             const struct syn1_session_config *config,
                             const struct syn1_identity *identity,
                             uint64_t now_ms);

// Takes in a received frame; `event` becomes what it meant. What the event points to lies in the frame.
//
// The first error is final: say goodbye by `syn1_session_leave` with `syn1_error_reason`, and close the link.
syn1_error syn1_session_handle(struct syn1_session *session,
                               uint64_t now_ms,
                               const struct syn1_frame *frame,
                               struct syn1_event *event);

// Writes the next frame that the session itself has to send; `written` becomes its bytes. `SYN1_MORE`: there is none.
// `out` must take `SYN1_SESSION_FRAME` bytes.
syn1_error syn1_session_poll_transmit(struct syn1_session *session, uint8_t *out, size_t out_len, size_t *written);

// `at_ms` becomes the time to call `syn1_session_handle_timeout`; `UINT64_MAX`: never.
syn1_error syn1_session_poll_timeout(struct syn1_session *session, uint64_t *at_ms);

// Does what is due at `now_ms`; calling it early does nothing. An error is final, as that of `syn1_session_handle`.
syn1_error syn1_session_handle_timeout(struct syn1_session *session, uint64_t now_ms);

// `limits` becomes what to give the decoder: the handshake's limits until the link is open.
syn1_error syn1_session_limits(struct syn1_session *session, struct syn1_limits *limits);

// Says which model's data frames may come from now on; hand the new limits to the decoder.
syn1_error syn1_session_set_model(struct syn1_session *session, uint16_t width, uint32_t vocab);

// What both ends can do, once the link is open; `SYN1_MORE` before.
syn1_error syn1_session_negotiated(struct syn1_session *session, struct syn1_negotiated *negotiated);

// Who the peer is, once its Hello is in; `SYN1_MORE` before.
syn1_error syn1_session_peer(struct syn1_session *session, struct syn1_peer *peer);

// Whether one more data frame may be sent, which the coordinator must ask before each: `SYN1_OK` takes the credit for it,
// `SYN1_MORE` says to wait for `SYN1_EVENT_GRANTED`. A node only answers, so it may always send.
syn1_error syn1_session_take_credit(struct syn1_session *session);

// A node has finished with one data frame that came, answered or dropped.
syn1_error syn1_session_done(struct syn1_session *session);

// Says goodbye: writes a Bye into `out`; `written` becomes the bytes of its frame. From then on the session sends nothing
// and takes nothing but the peer's Bye. `SYN1_MORE`: it has left already. Of `text` at most 256 bytes are
// said.
syn1_error syn1_session_leave(struct syn1_session *session,
                              syn1_reason reason,
                              struct syn1_text text,
                              uint8_t *out,
                              size_t out_len,
                              size_t *written);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SYN1_H */
