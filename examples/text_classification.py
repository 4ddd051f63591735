"""AS-Softmax in a plain PyTorch classifier, here of texts: one line is another.

python examples/text_classification.py
"""

import torch

from sb_margins.losses import ASSoftmax

torch.manual_seed(1)
TOPICS, WORDS, LENGTH = 20, 500, 25
habits = torch.distributions.Dirichlet(torch.full((WORDS,), 0.15)).sample((TOPICS,))
topics = torch.randint(TOPICS, (3000,))
texts = torch.multinomial(0.5 * habits[topics] + 0.5 / WORDS, LENGTH, True)

model = torch.nn.Sequential(
    torch.nn.EmbeddingBag(WORDS, 32), torch.nn.ReLU(), torch.nn.Linear(32, TOPICS)
)
loss = ASSoftmax(delta=0.9, scale=1)  # was: torch.nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
train, test = range(1000), range(1000, len(texts))
for epoch in range(11):
    for batch in torch.randperm(len(train)).split(50):
        value = loss(model(texts[batch]), topics[batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    if epoch % 5 == 0:
        right = (model(texts[test]).argmax(1) == topics[test]).float().mean()
        done = loss.stats["zero_loss"]
        print(f"epoch {epoch:2}  right {right:.1%}  without a loss {done:.0%}")
