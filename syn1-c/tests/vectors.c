// The published vectors of syn1-core, read and written through C.
//
//   vectors LIST      LIST is a file with the path of a vector in each line
//
// What a vector's file holds is described in syn1-core/tests/golden/vector.rs. Every line of it is checked but the first, which
// is for people: what the bytes say line by line, and, where the file says what was encoded, that the same bytes come of it.

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "syn1.h"

enum { BYTES = 1 << 14, VALUES = 1 << 12, TEXT = 1 << 18 };

static char file[TEXT], meant[TEXT];
static size_t meant_len;
static uint8_t frame_bytes[BYTES], before_bytes[BYTES], encoded[BYTES], scratch[BYTES];
static float sent[VALUES], values[VALUES], reference[VALUES], pair[2 * VALUES], logits[64];
static uint32_t ids[64];

static void die(const char *path, const char *what) {
  printf("%s: %s\n", path, what);
  exit(1);
}

// A line of what the frame means, as the file would say it.
static void mean(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  meant_len += (size_t)vsnprintf(meant + meant_len, TEXT - meant_len, format, arguments);
  va_end(arguments);
  if (meant_len >= TEXT) die("", "a vector means more than there is room for");
}

static uint32_t bits(float value) {
  uint32_t word;
  memcpy(&word, &value, 4);
  return word;
}

static void mean_floats(const char *word, const float *floats, size_t count) {
  mean("%s", word);
  for (size_t i = 0; i < count; i++) mean(" %08lx", (unsigned long)bits(floats[i]));
  mean("\n");
}

static void mean_bytes(const char *name, const uint8_t *bytes, size_t count) {
  mean(" %s=", name);
  for (size_t i = 0; i < count; i++) mean("%02x", bytes[i]);
}

static void mean_text(const char *name, syn1_text text) { mean(" %s=\"%.*s\"", name, (int)text.len, text.data); }

// newlib-nano prints no 64-bit numbers.
static void mean_long(const char *name, uint64_t number) {
  char digits[24];
  size_t at = sizeof digits;
  digits[--at] = 0;
  do digits[--at] = (char)('0' + number % 10);
  while (number /= 10);
  mean(" %s=%s", name, digits + at);
}

static void mean_error(syn1_error error) {
  const char *text = syn1_error_text(error);
  mean("expect error %.*s\n", (int)strcspn(text, ":"), text);
}

static void mean_control(const syn1_control *control) {
  static const char *const names[] = {"Hello",  "Bye",  "Ping",  "Pong",   "Model",  "Profile", "Assign", "Loading",
                                      "Loaded", "Open", "Close", "Failed", "Unable", "Closed",  "Prove",  "Grant"};
  static const char *const reasons[] = {"Done",    "Version",  "Protocol", "Timeout",
                                        "Refused", "Replaced", "Shutdown", "Internal"};
  const syn1_body *body = &control->body;
  mean("message %s", names[control->message]);
  switch (control->message) {
    case SYN1_MESSAGE_HELLO:
      mean(" minor_min=%u minor_max=%u", body->hello.minor_min, body->hello.minor_max);
      mean(" role=%s flags=%u", body->hello.role == SYN1_ROLE_NODE ? "Node" : "Coordinator", body->hello.flags);
      mean_long("codecs", body->hello.codecs);
      mean_long("max_payload", body->hello.max_payload);
      mean(" max_rows=%u credit=%u", body->hello.max_rows, body->hello.credit);
      mean_bytes("model", body->hello.model, 32);
      mean_bytes("key", body->hello.key, 32);
      mean_bytes("nonce", body->hello.nonce, 32);
      mean_text("agent", body->hello.agent);
      break;
    case SYN1_MESSAGE_BYE:
      mean(" reason=%s", reasons[body->bye.reason]);
      mean_text("text", body->bye.text);
      break;
    case SYN1_MESSAGE_PING:
    case SYN1_MESSAGE_PONG: mean_long("number", body->number); break;
    case SYN1_MESSAGE_MODEL:
      mean_text("name", body->model.name);
      mean_bytes("manifest_sha256", body->model.manifest_sha256, 32);
      mean(" http_port=%u width=%u", body->model.http_port, body->model.width);
      mean_long("vocab", body->model.vocab);
      mean(" layers=%u", body->model.layers);
      break;
    case SYN1_MESSAGE_PROFILE:
      mean_text("name", body->profile.name);
      mean_text("device", body->profile.device);
      mean_long("memory_bytes", body->profile.memory_bytes);
      mean_long("read_bytes_per_s", body->profile.read_bytes_per_s);
      mean_long("layer_ns", body->profile.layer_ns);
      break;
    case SYN1_MESSAGE_ASSIGN:
      mean_long("generation", body->assign.generation);
      mean(" first_layer=%u end_layer=%u", body->assign.first_layer, body->assign.end_layer);
      mean_long("max_positions", body->assign.max_positions);
      mean(" slots=%u max_rows=%u", body->assign.slots, body->assign.max_rows);
      break;
    case SYN1_MESSAGE_LOADING:
      mean_long("generation", body->loading.generation);
      mean_long("done_bytes", body->loading.done_bytes);
      mean_long("total_bytes", body->loading.total_bytes);
      break;
    case SYN1_MESSAGE_LOADED:
      mean_long("generation", body->loaded.generation);
      mean_long("fetched_bytes", body->loaded.fetched_bytes);
      mean_long("layer_ns", body->loaded.layer_ns);
      mean(" slots=%u", body->loaded.slots);
      break;
    case SYN1_MESSAGE_OPEN:
      mean_long("request", body->open.request);
      mean(" epoch=%u codec=%u flags=%u output=", body->open.epoch, body->open.codec, body->open.flags);
      if (body->open.output == SYN1_OUTPUT_TOP) mean("Top(%u)", body->open.k);
      if (body->open.output == SYN1_OUTPUT_FULL) mean("Full");
      mean_long("wanted_from", body->open.wanted_from);
      break;
    case SYN1_MESSAGE_CLOSE: mean_long("request", body->request); break;
    case SYN1_MESSAGE_FAILED:
      mean_long("request", body->failed.request);
      mean(" epoch=%u", body->failed.epoch);
      mean_text("text", body->failed.text);
      break;
    case SYN1_MESSAGE_UNABLE:
      mean_long("generation", body->unable.generation);
      mean_text("text", body->unable.text);
      break;
    case SYN1_MESSAGE_CLOSED:
      mean_long("request", body->closed.request);
      mean_long("compute_us", body->closed.compute_us);
      break;
    case SYN1_MESSAGE_PROVE: mean_bytes("signature", body->signature, 64); break;
    case SYN1_MESSAGE_GRANT: mean(" frames=%u", body->frames); break;
  }
  mean("\n");
}

static void mean_header(const syn1_header *header) {
  static const char *const kinds[] = {"", "tokens", "activation", "output", "control"};
  mean("expect %s\nheader kind=%u flags=%u codec=%u epoch=%u", kinds[header->kind], header->kind, header->flags,
       header->codec, header->epoch);
  mean_long("position", header->position);
  mean_long("request", header->request);
  mean_long("payload_len", header->payload_len);
  mean(" rows=%u cols=%u\n", header->rows, header->cols);
}

// What the payload says; or the error, in place of all that was said before.
static syn1_error mean_payload(const syn1_frame *frame, const syn1_frame *before, const syn1_limits *limits) {
  const syn1_header *header = &frame->header;
  size_t count = (size_t)header->rows * header->cols;
  syn1_inbound inbound;
  syn1_control control;
  syn1_error error;
  float sum;
  switch (header->kind) {
    case SYN1_KIND_TOKENS:
      if ((error = syn1_ids_decode(frame->payload, header->payload_len, ids, count))) return error;
      mean_header(header);
      mean("ids");
      for (size_t i = 0; i < count; i++) mean(" %lu", (unsigned long)ids[i]);
      mean("\n");
      return SYN1_OK;
    case SYN1_KIND_ACTIVATION:
      if ((error = syn1_inbound_init(&inbound, reference, limits->width))) return error;
      if (before) {
        size_t earlier = (size_t)before->header.rows * before->header.cols;
        if ((error = syn1_inbound_decode(&inbound, before, values, earlier))) die("", "the frame before is refused");
      }
      if ((error = syn1_inbound_decode(&inbound, frame, values, count))) return error;
      mean_header(header);
      for (size_t row = 0; row < header->rows; row++) mean_floats("decoded", values + row * header->cols, header->cols);
      return SYN1_OK;
    case SYN1_KIND_OUTPUT:
      if (header->codec == SYN1_CODEC_F32) {
        if ((error = syn1_full_decode(frame->payload, header->payload_len, values, limits->vocab))) return error;
        mean_header(header);
        mean_floats("decoded", values, limits->vocab);
        return SYN1_OK;
      }
      if (header->rows == 0) return mean_header(header), SYN1_OK;
      for (size_t row = 0;; row++) {
        error = syn1_top_decode(frame->payload, header->payload_len, header->cols, limits->vocab, row, &sum, ids, logits);
        if (error == SYN1_MORE) return SYN1_OK;
        if (error) return error;
        if (row == 0) mean_header(header);
        mean("row log_sum_exp=%08lx", (unsigned long)bits(sum));
        for (size_t i = 0; i < header->cols; i++) mean(" %lu:%08lx", (unsigned long)ids[i], (unsigned long)bits(logits[i]));
        mean("\n");
      }
    default:
      if ((error = syn1_control_decode(frame->payload, header->payload_len, &control))) return error;
      mean_header(header);
      mean_control(&control);
      return SYN1_OK;
  }
}

// The words of a line of the file, without the numbers that people read in front of each `=`.
static void canonical(char *line) {
  char *to = line, *from = line;
  while (*from) {
    size_t word = strcspn(from, " ");
    char *bits_of = memchr(from, '=', word);
    char *number = from;
    if (strncmp(line, "row", 3) == 0 && memchr(from, ':', word)) {  // ID:NUMBER=BITS
      size_t id = strcspn(from, ":") + 1;
      memmove(to, from, id);
      to += id;
      number = bits_of + 1;
    } else if (strncmp(line, "row", 3) == 0 && bits_of) {  // log_sum_exp=NUMBER=BITS
      size_t name = (size_t)(bits_of - from) + 1;
      memmove(to, from, name);
      to += name;
      number = strchr(bits_of + 1, '=') + 1;
    } else if (bits_of) {
      number = bits_of + 1;
    }
    size_t rest = word - (size_t)(number - from);
    memmove(to, number, rest);
    to += rest;
    from += word;
    if (*from) *to++ = *from++;
  }
  *to = 0;
}

static size_t read_hex(const char *digits, uint8_t *to, size_t have) {
  for (; *digits; digits++) {
    if (*digits == ' ') continue;
    char byte[3] = {digits[0], digits[1], 0};
    if (have == BYTES) die("", "a vector is longer than there is room for");
    to[have++] = (uint8_t)strtoul(byte, NULL, 16);
    digits++;
  }
  return have;
}

static size_t read_floats(const char *words, size_t have) {
  while ((words = strchr(words, '='))) {
    uint32_t word = (uint32_t)strtoul(++words, NULL, 16);
    if (have == VALUES) die("", "a vector has more values than there is room for");
    memcpy(&sent[have++], &word, 4);
  }
  return have;
}

// Whether the frame comes of what the file says was sent, or of its own meaning.
static void check_encoding(const char *path, const syn1_frame *frame, size_t len, size_t sent_count, int follows) {
  const syn1_header *header = &frame->header;
  syn1_header made = *header;
  syn1_control control;
  syn1_outbound outbound;
  const uint8_t *payload = scratch;
  size_t payload_len = 0, written = 0;
  syn1_error error = SYN1_OK;
  if (header->kind == SYN1_KIND_CONTROL) {
    syn1_control_decode(frame->payload, header->payload_len, &control);
    error = syn1_control_encode(&control, encoded, BYTES, &written);
  } else {
    if (header->kind == SYN1_KIND_ACTIVATION && sent_count && !follows) {
      syn1_place place = {header->request, header->position, header->epoch, (header->flags & SYN1_FLAG_PREDICTED) != 0,
                          header->codec, header->flags & (SYN1_FLAG_DELTA | SYN1_FLAG_COMPRESSED)};
      // What compression does not make shorter goes without the flag; asking for it must not matter.
      if (strstr(path, "not-shorter")) place.flags |= SYN1_FLAG_COMPRESSED;
      error = syn1_outbound_init(&outbound, pair, 2u * header->cols, encoded, BYTES);
      if (!error) error = syn1_outbound_encode(&outbound, &place, sent, sent_count, header->cols, scratch, BYTES, &made);
      payload_len = made.payload_len;
    } else if (header->kind == SYN1_KIND_OUTPUT && sent_count && header->rows == 1 && header->codec == SYN1_CODEC_TOP) {
      error = syn1_top_encode(sent, sent_count, header->cols, scratch, BYTES, &payload_len);
      made.payload_len = (uint32_t)payload_len;
    } else if (header->kind == SYN1_KIND_OUTPUT && header->codec == SYN1_CODEC_F32) {
      error = syn1_full_encode(sent, sent_count, scratch, BYTES, &payload_len);
      made.payload_len = (uint32_t)payload_len;
    } else if (header->kind == SYN1_KIND_TOKENS) {
      error = syn1_ids_encode(ids, header->rows, scratch, BYTES);
      payload_len = 4u * header->rows;
    } else {
      payload = frame->payload;
      payload_len = header->payload_len;
    }
    if (!error) error = syn1_frame_encode(&made, payload, payload_len, encoded, BYTES, &written);
  }
  if (error) die(path, syn1_error_text(error));
  if (written != len || memcmp(encoded, frame_bytes, len) != 0) die(path, "what is encoded is not what was published");
}

// The same frame out of a stream that gives five bytes at a time.
static void check_stream(const char *path, const syn1_limits *limits, const syn1_frame *frame, size_t len) {
  syn1_decoder decoder;
  syn1_frame found;
  syn1_error error = syn1_decoder_init(&decoder, scratch, BYTES, limits);
  for (size_t at = 0; !error && at < len;) {
    syn1_room room = syn1_decoder_spare(&decoder);
    size_t count = len - at < 5 ? len - at : 5;
    memcpy(room.data, frame_bytes + at, count);
    at += count;
    error = syn1_decoder_commit(&decoder, count);
    if (!error) error = syn1_decoder_next(&decoder, &found);
    if (error == SYN1_MORE && at < len) error = SYN1_OK;
  }
  int same = !error && memcmp(&found.header, &frame->header, sizeof found.header) == 0 &&
             memcmp(found.payload, frame->payload, found.header.payload_len) == 0;
  if (!same || syn1_decoder_finish(&decoder)) die(path, "a stream gives another frame");
}

static void check_header(const char *path, const syn1_limits *limits, const syn1_header *header) {
  syn1_header parsed;
  uint8_t emitted[SYN1_HEADER_LEN];
  if (syn1_header_parse(frame_bytes, limits, &parsed) || memcmp(&parsed, header, sizeof parsed) != 0 ||
      syn1_header_emit(&parsed, emitted) || memcmp(emitted, frame_bytes, sizeof emitted) != 0) {
    die(path, "the header is read or written otherwise");
  }
}

static void check(const char *path) {
  syn1_limits limits = {0};
  syn1_frame frame, before;
  size_t len = 0, before_len = 0, sent_count = 0, expected = 0;
  static char wanted[TEXT];
  FILE *stream = fopen(path, "rb");
  if (!stream) die(path, "cannot be opened");
  file[fread(file, 1, TEXT - 1, stream)] = 0;
  fclose(stream);
  for (char *line = strtok(file, "\n"); line; line = strtok(NULL, "\n")) {
    char *rest = strchr(line, ' ') + 1;
    if (strncmp(line, "limits ", 7) == 0) {
      unsigned long max_payload, max_rows, width, vocab, flags;
      if (sscanf(line, "limits max_payload=%lu max_rows=%lu width=%lu vocab=%lu flags=%lu", &max_payload, &max_rows, &width,
                 &vocab, &flags) != 5) die(path, "has no limits");
      limits = (syn1_limits){(uint32_t)max_payload, (uint32_t)vocab, (uint16_t)max_rows, (uint16_t)width, (uint8_t)flags};
    } else if (strncmp(line, "bytes ", 6) == 0) {
      len = read_hex(rest, frame_bytes, len);
    } else if (strncmp(line, "before ", 7) == 0) {
      before_len = read_hex(rest, before_bytes, before_len);
    } else if (strncmp(line, "sent ", 5) == 0 || strncmp(line, "logits ", 7) == 0) {
      sent_count = read_floats(rest, sent_count);
    } else if (line[0] != '#') {
      if (strncmp(line, "decoded", 7) == 0 || strncmp(line, "row", 3) == 0) canonical(line);
      expected += (size_t)snprintf(wanted + expected, TEXT - expected, "%s\n", line);
    }
  }
  int follows = before_len && syn1_frame_from_message(before_bytes, before_len, &limits, &before) == SYN1_OK;
  meant_len = 0;
  meant[0] = 0;
  syn1_error error = syn1_frame_from_message(frame_bytes, len, &limits, &frame);
  if (error == SYN1_OK) error = mean_payload(&frame, follows ? &before : NULL, &limits);
  if (error == SYN1_SKIP) mean("expect skip\n");
  if (error > SYN1_SKIP) mean_error(error);
  if (strcmp(meant, wanted) != 0) {
    printf("it should mean\n%sand means\n%s", wanted, meant);
    die(path, "means something else");
  }
  if (error == SYN1_OK) {
    check_header(path, &limits, &frame.header);
    check_stream(path, &limits, &frame, len);
    check_encoding(path, &frame, len, sent_count, follows);
  }
}

int main(int count, char **arguments) {
  char path[512];
  unsigned vectors = 0;
  if (count != 2) die("vectors", "wants the file that lists the vectors");
  FILE *list = fopen(arguments[1], "rb");
  if (!list) die(arguments[1], "cannot be opened");
  for (; fgets(path, sizeof path, list); vectors++) {
    path[strcspn(path, "\n")] = 0;
    check(path);
  }
  if (vectors == 0) die(arguments[1], "lists no vector");
  printf("%u vectors read and written through C as published\n", vectors);
  return 0;
}
