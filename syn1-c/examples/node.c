// A node of SYN1 in C: joins a coordinator over a pipe of bytes, is given a layer, computes, and leaves when it is told to.
//
// The pipe here is a recorded conversation, so that the same file runs on a host and on a microcontroller: firmware puts its
// UART, radio or socket into link_read and link_write, its clock into now_ms, and its kernels into layer.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conversation.h"
#include "syn1.h"

#define WIDTH 16
#define TEXT(literal) ((syn1_text){literal, sizeof literal - 1})

static uint8_t received[SYN1_HEADER_LEN + SYN1_MAX_CONTROL], sent[SYN1_HEADER_LEN + SYN1_MAX_CONTROL];
static syn1_decoder decoder;
static syn1_session session;
static syn1_open request;
static size_t heard, said;

static void die(const char *why) {
  printf("%s\n", why);
  exit(1);
}

static size_t link_read(uint8_t *to, size_t room) {
  size_t left = sizeof coordinator_says - heard, count = left < 7 ? left : 7;  // as a UART gives them: a few at a time
  if (count > room) count = room;
  if (count == 0) die("the link has ended");
  memcpy(to, coordinator_says + heard, count);
  heard += count;
  return count;
}

static void link_write(const uint8_t *bytes, size_t len) {
  if (len > sizeof node_says - said || memcmp(bytes, node_says + said, len) != 0) die("this is not what a node says");
  said += len;
}

static uint64_t now_ms(void) { return 0; }

static void layer(float *row) {
  for (int i = 0; i < WIDTH; i++) row[i] = 0.5f * row[i] + 1.0f;
}

static void must(syn1_error error) {
  if (error != SYN1_OK) die(syn1_error_text(error));
}

static void say(syn1_message message, syn1_body body) {
  size_t len;
  must(syn1_control_encode(&(syn1_control){message, body}, sent, sizeof sent, &len));
  link_write(sent, len);
}

static void answer(const syn1_frame *frame) {
  syn1_header header = frame->header;
  float row[WIDTH];
  uint8_t payload[4 * WIDTH];
  size_t len;
  must(syn1_decode(header.codec, frame->payload, header.payload_len, header.rows, header.cols, row, WIDTH));
  layer(row);
  must(syn1_encode(request.codec, row, WIDTH, WIDTH, payload, sizeof payload, &len));
  must(syn1_header_activation(header.request, header.epoch, header.position, request.codec, 1, WIDTH, &header));
  must(syn1_frame_encode(&header, payload, len, sent, sizeof sent, &len));
  link_write(sent, len);
  must(syn1_session_done(&session));
}

static void hear(const syn1_control *control) {
  switch (control->message) {
    case SYN1_MESSAGE_MODEL:
      must(syn1_session_set_model(&session, control->body.model.width, control->body.model.vocab));
      say(SYN1_MESSAGE_PROFILE, (syn1_body){.profile = {TEXT("shelf"), TEXT("Cortex-M3"), 65536, 4000000, 2000000}});
      break;
    case SYN1_MESSAGE_ASSIGN:
      say(SYN1_MESSAGE_LOADED, (syn1_body){.loaded = {0, 2000000, control->body.assign.generation, 1}});
      break;
    case SYN1_MESSAGE_OPEN: request = control->body.open; break;
    case SYN1_MESSAGE_CLOSE:
      say(SYN1_MESSAGE_CLOSED, (syn1_body){.closed = {1234, control->body.request}});
      break;
  }
}

// Sends what the session has to say, and tells the decoder what may come next.
static void flush(void) {
  syn1_limits limits;
  size_t len;
  while (syn1_session_poll_transmit(&session, sent, sizeof sent, &len) == SYN1_OK) link_write(sent, len);
  must(syn1_session_limits(&session, &limits));
  must(syn1_decoder_set_limits(&decoder, &limits));
}

int main(void) {
  syn1_session_config config = {.agent = TEXT("node.c"), .codecs = SYN1_CODECS_ACTIVATIONS, .max_payload = SYN1_MAX_CONTROL,
                                .max_rows = 1, .credit = 2, .role = SYN1_ROLE_NODE};
  syn1_limits limits = syn1_limits_handshake();
  syn1_error error;
  must(syn1_session_init(&session, &config, NULL, now_ms()));
  must(syn1_decoder_init(&decoder, received, sizeof received, &limits));
  flush();
  for (;;) {
    syn1_frame frame;
    syn1_event event = {0};
    while ((error = syn1_decoder_next(&decoder, &frame)) == SYN1_MORE) {
      syn1_room room = syn1_decoder_spare(&decoder);
      must(syn1_decoder_commit(&decoder, link_read(room.data, room.len)));
    }
    must(error);
    must(syn1_session_handle(&session, now_ms(), &frame, &event));
    if (event.kind == SYN1_EVENT_BYE) break;
    if (event.kind == SYN1_EVENT_CONTROL) hear(&event.body.control);
    if (event.kind == SYN1_EVENT_DATA) answer(&event.body.frame);
    flush();
  }
  size_t len;
  must(syn1_session_leave(&session, SYN1_REASON_DONE, TEXT("as told"), sent, sizeof sent, &len));
  link_write(sent, len);
  if (said != sizeof node_says) die("a node says more");
  printf("%u bytes heard, %u said: what a node in Rust says\n", (unsigned)heard, (unsigned)said);
  return 0;
}
