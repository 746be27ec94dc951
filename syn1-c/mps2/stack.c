// How deep the stack of a program was until it first printed something: what lies below it is painted before main. Printing
// itself is the C library's matter, and takes more than a node does.

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

int __real_printf(const char *format, ...);
int __wrap_printf(const char *format, ...);

static const uint32_t paint = 0xacce55ed;
static volatile uint32_t *bottom, *top;  // of what was painted

static volatile uint32_t *stack_pointer(void) {
  volatile uint32_t *here;
  __asm__ volatile("mov %0, sp" : "=r"(here));
  return here;
}

__attribute__((constructor)) static void paint_stack(void) {
  top = stack_pointer() - 32;  // this function's own frame
  bottom = top - 4096;
  for (volatile uint32_t *word = bottom; word < top; word++) *word = paint;
}

int __wrap_printf(const char *format, ...) {
  static uint32_t bytes;
  volatile uint32_t *word = bottom;
  while (word < top && *word == paint) word++;
  if (bytes == 0) bytes = (uint32_t)((uintptr_t)top - (uintptr_t)word);
  va_list arguments;
  va_start(arguments, format);
  int printed = vprintf(format, arguments);
  va_end(arguments);
  __real_printf("stack: %u bytes at most\n", (unsigned)bytes);
  return printed;
}
