// The protocol alone, as firmware that receives activations and answers them would link it: header, push decoder, q8 both
// ways. Nothing runs this; what is linked for it is measured. WHOLE adds the session with its control messages, and
// every codec and form.

#include "syn1.h"

#define WIDTH 64

static uint8_t frame_buffer[SYN1_HEADER_LEN + SYN1_MAX_CONTROL];  // not counted: every receiver has one
static syn1_decoder decoder;
static float row[WIDTH];
volatile uint8_t uart;

static void send(const uint8_t *bytes, size_t len) {
  for (size_t i = 0; i < len; i++) uart = bytes[i];
}

static syn1_error answer(const syn1_frame *frame) {
  uint8_t head[SYN1_HEADER_LEN], payload[SYN1_Q8_OVERHEAD + WIDTH];
  syn1_header header;
  syn1_error error = syn1_q8_decode_row(frame->payload, frame->header.payload_len, row, WIDTH);
  if (error) return error;
  error = syn1_header_activation(frame->header.request, 0, frame->header.position, SYN1_CODEC_Q8, 1, WIDTH, &header);
  if (error) return error;
  if ((error = syn1_header_emit(&header, head))) return error;
  if ((error = syn1_q8_encode_row(row, WIDTH, payload, sizeof payload))) return error;
  send(head, sizeof head);
  send(payload, sizeof payload);
  return SYN1_OK;
}

#ifdef WHOLE
static syn1_session session;
static syn1_outbound outbound;
static syn1_inbound inbound;
static float reference[WIDTH], rows[2 * WIDTH];
static uint8_t sent[SYN1_HEADER_LEN + SYN1_MAX_CONTROL];

static syn1_error converse(const syn1_frame *frame, uint64_t now) {
  syn1_event event;
  syn1_limits limits;
  uint64_t at;
  size_t len;
  syn1_error error = syn1_session_handle(&session, now, frame, &event);
  if (error) syn1_session_leave(&session, syn1_error_reason(error), (syn1_text){"", 0}, sent, sizeof sent, &len);
  if (event.kind == SYN1_EVENT_CONTROL) error = syn1_control_encode(&event.body.control, sent, sizeof sent, &len);
  if (event.kind == SYN1_EVENT_DATA) {
    syn1_place place = {.request = 1, .codec = event.body.frame.header.codec, .flags = SYN1_FLAG_DELTA};
    syn1_header header;
    error = syn1_inbound_decode(&inbound, &event.body.frame, row, WIDTH);
    if (!error) error = syn1_outbound_encode(&outbound, &place, row, WIDTH, WIDTH, sent, sizeof sent, &header);
    if (!error) error = syn1_top_encode(row, WIDTH, 4, sent, sizeof sent, &len);
    if (!error) error = syn1_full_encode(row, WIDTH, sent, sizeof sent, &len);
    if (!error) error = syn1_session_done(&session);
  }
  while (syn1_session_poll_transmit(&session, sent, sizeof sent, &len) == SYN1_OK) send(sent, len);
  if (!error) error = syn1_session_poll_timeout(&session, &at);
  if (!error) error = syn1_session_handle_timeout(&session, at);
  if (!error) error = syn1_session_limits(&session, &limits);
  return error ? error : syn1_decoder_set_limits(&decoder, &limits);
}
#endif

void _start(void) {
  syn1_limits limits = {1024, 1000, 1, WIDTH, 0};
  syn1_error error = syn1_decoder_init(&decoder, frame_buffer, sizeof frame_buffer, &limits);
#ifdef WHOLE
  syn1_session_config config = {.codecs = SYN1_CODECS_ACTIVATIONS, .max_rows = 1, .credit = 1, .role = SYN1_ROLE_NODE};
  if (!error) error = syn1_session_init(&session, &config, NULL, uart);
  if (!error) error = syn1_outbound_init(&outbound, rows, 2 * WIDTH, sent, sizeof sent);
  if (!error) error = syn1_inbound_init(&inbound, reference, WIDTH);
#endif
  while (!error) {
    syn1_frame frame;
    syn1_room room = syn1_decoder_spare(&decoder);
    if (room.len > 0) *room.data = uart;
    error = syn1_decoder_commit(&decoder, 1);
    if (error) break;
    error = syn1_decoder_next(&decoder, &frame);
    if (error == SYN1_MORE) {
      error = SYN1_OK;
      continue;
    }
    if (!error) error = answer(&frame);
#ifdef WHOLE
    if (!error) error = converse(&frame, uart);
#endif
  }
  for (;;) uart = (uint8_t)error;
}
