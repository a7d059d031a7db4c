/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* Included before upstream's ncdevmem.c, which stays as it is: compiles away what it prints for each
 * frag and each recvmsg. All other messages, its errors among them, are printed as ever. Both sides
 * of the choice are known when it is compiled, so that neither a call nor its arguments are left.
 */
#define _GNU_SOURCE /* as the source has it, and this comes first */
#include <stdio.h>

#define QUIET_IS(format, start) (!__builtin_strncmp(format, start, sizeof(start) - 1))
#define fprintf(stream, format, ...) \
	(QUIET_IS(format, "recvmsg ret=") || QUIET_IS(format, "received frag_page=") || \
	 QUIET_IS(format, "total_received=") || QUIET_IS(format, "Validated buffer") ? \
		0 : (fprintf)(stream, format, ##__VA_ARGS__))
