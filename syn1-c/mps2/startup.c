// What a Cortex-M needs before newlib's own start: a stack and a first instruction. Faults end the program.

#include <stdint.h>

extern uint32_t stack_top[];
extern void _start(void);  // newlib's, with semihosting

static void fault(void) {
  // SYS_EXIT with ADP_Stopped_InternalError: the emulator ends and says so.
  register uint32_t operation __asm__("r0") = 0x18, reason __asm__("r1") = 0x20024;
  __asm__ volatile("bkpt 0xab" : : "r"(operation), "r"(reason) : "memory");
  for (;;) {
  }
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top, _start, fault, fault, fault, fault, fault, 0, 0, 0, 0, fault, fault, 0, fault, fault,
};
