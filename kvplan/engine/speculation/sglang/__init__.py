"""SGLang's scheduler where every decode step verifies drafts (EAGLE, EAGLE3, NEXTN, STANDALONE)."""
