"""SGLang's start-up rules, by patch release: what it holds back, its pages, pools and limits."""
