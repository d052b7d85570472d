// SPDX-License-Identifier: GPL-2.0
#include "selftests/kexec/kvm_guest.hh"

#include <cstddef>

// Data, as the code below has it.
static_assert(offsetof(guest::Data, check) == 8);
static_assert(offsetof(guest::Data, irqs) == 16);
static_assert(offsetof(guest::Data, error_code) == 80);
static_assert(offsetof(guest::Data, cr2) == 88);
static_assert(offsetof(guest::Data, exits) == 96);
static_assert(offsetof(guest::Data, exit_code) == 104);
static_assert(offsetof(guest::Data, l2) == 112);

#define PROGRAM(name, text)                                                                        \
	asm(".pushsection .rodata\n"                                                               \
	    ".globl guest_" #name ", guest_" #name "_end\n"                                        \
	    "guest_" #name ":\n" text "\nguest_" #name "_end:\n.popsection\n");                    \
	extern "C" const char guest_##name[], guest_##name##_end[];                                \
	std::string_view guest::name()                                                             \
	{                                                                                          \
		return {guest_##name, guest_##name##_end};                                         \
	}

PROGRAM(count, R"(
1:	cmp %r8, (%rdi)
	jne 2f
	cmp %r9, 8(%rdi)
	jne 2f
	inc %r8
	imul $0x51f42d4d, %r9, %r9
	add %r8, %r9
	mov %r8, (%rdi)
	mov %r9, 8(%rdi)
	jmp 1b
2:	mov %r8d, %eax
	out %eax, $0x11
	hlt
)")

PROGRAM(out, R"(
1:	cmp %r8, (%rdi)
	jne 2f
	inc %r8
	mov %r8, (%rdi)
	mov %r8d, %eax
	out %eax, $0x10
	jmp 1b
2:	mov %r8d, %eax
	out %eax, $0x11
	hlt
)")

PROGRAM(timer, R"(
	mov %rdx, %r10
	mov $0x80f, %ecx	# spurious vector, enabled
	mov $0x1ff, %eax
	xor %edx, %edx
	wrmsr
	mov $0x83e, %ecx	# divide by 16
	mov $0x3, %eax
	wrmsr
	mov $0x832, %ecx
	mov %esi, %eax
	wrmsr
	test $0x40000, %esi
	jnz 1f
	mov $0x838, %ecx
	mov %r10d, %eax
	wrmsr
	jmp 2f
1:	rdtsc
	shl $32, %rdx
	or %rdx, %rax
	add %r10, %rax
	mov %rax, %rdx
	shr $32, %rdx
	mov $0x6e0, %ecx
	wrmsr
2:	out %eax, $0x12
	sti
3:	hlt
	incq (%rdi)
	jmp 3b
)")

PROGRAM(halt, R"(
	sti
1:	hlt
	incq (%rdi)
	jmp 1b
)")

PROGRAM(l1, R"(
	mov $0xc0000080, %ecx
	rdmsr
	or $0x1000, %eax
	wrmsr
	mov $0xc0010117, %ecx
	mov $0xa000, %eax
	xor %edx, %edx
	wrmsr
	mov $0x9000, %eax
1:	vmrun
	mov 0x70(%rax), %rdx
	mov %rdx, 104(%rdi)
	incq 96(%rdi)
	addq $3, 0x578(%rax)
	jmp 1b
)")

PROGRAM(l2, R"(
1:	incq 112(%rdi)
	mov 112(%rdi), %eax
	out %eax, $0x10
	test $3, %al
	jnz 1b
	vmmcall
	jmp 1b
)")

PROGRAM(rdmsr, R"(
1:	rdmsr
	out %eax, $0x12
	jmp 1b
)")

PROGRAM(touch, R"(
1:	mov %rsi, %rbx
2:	incq (%rbx)
	add $0x1000, %rbx
	cmp %rdx, %rbx
	jb 2b
	mov %ebx, %eax
	out %eax, $0x12
	jmp 1b
)")

// At handlers, one every 64 bytes. Interrupts end with an EOI.
asm(R"(
	.pushsection .rodata
	.macro interrupt nr
	.balign 64
	incq 16+8*\nr(%rdi)
	push %rax
	push %rcx
	push %rdx
	mov $0x80b, %ecx
	xor %eax, %eax
	xor %edx, %edx
	wrmsr
	pop %rdx
	pop %rcx
	pop %rax
	iretq
	.endm
	.macro plain nr
	.balign 64
	incq 16+8*\nr(%rdi)
	iretq
	.endm
	.macro with_code nr
	.balign 64
	incq 16+8*\nr(%rdi)
	popq 80(%rdi)
	push %rax
	mov %cr2, %rax
	mov %rax, 88(%rdi)
	pop %rax
	iretq
	.endm
	.balign 64
	.globl guest_handler_code, guest_handler_code_end
guest_handler_code:
	interrupt 0
	interrupt 1
	plain 2
	plain 3
	with_code 4
	with_code 5
	interrupt 6
	interrupt 7
guest_handler_code_end:
	.popsection
)");
extern "C" const char guest_handler_code[], guest_handler_code_end[];

std::string_view guest::handler_code()
{
	return {guest_handler_code, guest_handler_code_end};
}

std::uint64_t guest::handler(unsigned int n)
{
	return handlers + 64 * n;
}
