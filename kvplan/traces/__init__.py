"""Floor 3: who asks for what, when. Readers, generators and statistics of request traffic."""
