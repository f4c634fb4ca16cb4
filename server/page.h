/* The chat page: one file, made part of the program when it is built (page-data.c, by page/embed.sh). */
#ifndef SHARPI_SERVER_PAGE_H
#define SHARPI_SERVER_PAGE_H

#include "text.h"

extern const unsigned char page_data[];
extern const uint64_t page_size;

#define PAGE_TYPE "text/html; charset=utf-8"
enum { PAGE_NONCE = 33, PAGE_POLICY = 320 };

/* Appends the page with a fresh `nonce` where it says @NONCE@: only its own script and style have it, so the browser runs
 * nothing else. -1 when there is no randomness. */
int32_t page_print(struct text *out, char nonce[PAGE_NONCE]);
/* Content-Security-Policy for that nonce: nothing from elsewhere, requests to this server only. */
void page_policy(char policy[PAGE_POLICY], const char *nonce);

#endif
