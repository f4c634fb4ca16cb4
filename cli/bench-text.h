/* sharpi bench text: speed of the tokenizer and cost of the sampler. */
#ifndef SHARPI_CLI_BENCH_TEXT_H
#define SHARPI_CLI_BENCH_TEXT_H

/* argv[0] is "text"; returns enum exit_code. */
int bench_text_command(int argc, char **argv);

#endif
