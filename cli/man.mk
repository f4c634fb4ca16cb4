# Manual pages and completion, made by running the programs just built; a cross build goes without. Every command needs its page
# here, or it is made and not installed: tests/test-cli.sh compares the two.
EXTRA_DIST += packaging/make-completion packaging/make-man
if RUNS_HERE
man_pages = \
	man/sharpi.1 \
	man/sharpi-bench.1 \
	man/sharpi-bench-text.1 \
	man/sharpi-chat.1 \
	man/sharpi-detokenize.1 \
	man/sharpi-doctor.1 \
	man/sharpi-inspect.1 \
	man/sharpi-logits.1 \
	man/sharpi-perplexity.1 \
	man/sharpi-plan.1 \
	man/sharpi-plugin-check.1 \
	man/sharpi-plugins.1 \
	man/sharpi-run.1 \
	man/sharpi-template.1 \
	man/sharpi-tokenize.1
if BUILD_PULL
man_pages += man/sharpi-pull.1
endif
if BUILD_SERVER
man_pages += man/sharpi-serve.1
endif
nodist_man_MANS = $(man_pages)
$(man_pages): man/stamp
man/stamp: sharpi$(EXEEXT) sharpi-plugin-check$(EXEEXT) packaging/make-man
	$(AM_V_GEN)rm -rf man && $(SHELL) '$(srcdir)/packaging/make-man' ./sharpi ./sharpi-plugin-check man && touch $@

bashcompletiondir = $(datadir)/bash-completion/completions
nodist_bashcompletion_DATA = completion/sharpi
zshcompletiondir = $(datadir)/zsh/site-functions
nodist_zshcompletion_DATA = completion/_sharpi
fishcompletiondir = $(datadir)/fish/vendor_completions.d
nodist_fishcompletion_DATA = completion/sharpi.fish
completion/sharpi completion/_sharpi completion/sharpi.fish: completion/stamp
completion/stamp: sharpi$(EXEEXT) packaging/make-completion
	$(AM_V_GEN)mkdir -p completion && \
	  $(SHELL) '$(srcdir)/packaging/make-completion' bash ./sharpi >completion/sharpi && \
	  $(SHELL) '$(srcdir)/packaging/make-completion' zsh ./sharpi >completion/_sharpi && \
	  $(SHELL) '$(srcdir)/packaging/make-completion' fish ./sharpi >completion/sharpi.fish && touch $@
endif

clean-local: clean-made-from-help
clean-made-from-help:
	rm -rf man completion
.PHONY: clean-made-from-help
